//! Facts that decisions wait for, found in DNS and at other servers.
//!
//! | what | module |
//! |---|---|
//! | does the server of a relay domain take mail for a recipient? | `call_forward` |
//! | where is a host that may relay? | [`host_names`] |

use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use postern_policy::facts::{Finder, Wanted};
use postern_runtime::Clock;
use postern_runtime::clock::Pending;

use crate::route::join_all;
use crate::settings::Settings;

mod call_forward;
pub mod host_names;

use call_forward::CallForward;

/// Finds facts as the configuration in force says, and puts them into its [`postern_policy::standing::Standing`].
#[derive(Debug)]
pub struct Facts {
    settings: Arc<ArcSwap<Settings>>,
    clock: Arc<dyn Clock>,
    call_forward: CallForward,
}

impl Facts {
    /// Nothing is asked yet.
    pub fn new(settings: Arc<ArcSwap<Settings>>, clock: Arc<dyn Clock>) -> Self {
        Self { settings, clock, call_forward: CallForward::default() }
    }

    async fn find_one(&self, wanted: Wanted) {
        let settings = self.settings.load_full();
        match wanted {
            Wanted::Recipient(recipient) => self.call_forward.ask(&recipient, &settings, &*self.clock).await,
            Wanted::HostName(name) => host_names::look_up(&name, &settings, &*self.clock).await,
            // No decision asks for these.
            Wanted::OwnersLock(_) | Wanted::SenderPolicy(_) => {}
        }
    }
}

impl Finder for Facts {
    fn find(&self, wanted: Vec<Wanted>) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let finding = wanted.into_iter().map(|one| Box::pin(self.find_one(one)) as Pending<'_, ()>);
            join_all(finding.collect()).await;
        })
    }
}
