//! Over the store on a disk.

type World = crate::world::World<crate::world::OnDisk>;

#[path = "life.rs"]
mod life;
#[path = "terms.rs"]
mod terms;
#[path = "verbs.rs"]
mod verbs;
