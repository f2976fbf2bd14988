//! Over the store in memory, and what only a store that is not on a disk shows.

use postern_queue::StoreError;
use postern_queue::upkeep::RestoreError;

use crate::world::{ALICE, accept};

type World = crate::world::World<crate::world::InMemory>;

#[path = "life.rs"]
mod life;
#[path = "terms.rs"]
mod terms;
#[path = "verbs.rs"]
mod verbs;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_disk_is_refused_where_there_is_none() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    let refused = |error: StoreError| match error {
        StoreError::Refused(text) => assert!(text.contains("not on a disk of this machine"), "{text}"),
        error => panic!("{error}"),
    };
    refused(queue.disk().unwrap_err());
    refused(queue.quarantine().unwrap_err());
    let RestoreError::Store(error) = queue.restore(postern_queue::QueueId(id.0 + 1), None).await.unwrap_err()
    else {
        panic!("something was put back");
    };
    refused(error);
    queue.update_metrics();
    assert_eq!(queue.summary().messages, 1);
}
