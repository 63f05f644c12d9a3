//! The archive of messages: XEP-0313 and XEP-0441, for its owner.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::node::NodeShared;

/// How often old messages are removed.
const EXPIRY_INTERVAL: Duration = Duration::from_mins(10);

/// Messages that are removed in one transaction.
const EXPIRY_BATCH: usize = 1000;

/// Removes what is older, or more, than the settings allow, now and then.
pub(crate) fn start_expiry(node: &Arc<NodeShared>) {
    let archive = &node.settings.archive;
    if archive.max_age.is_none() && archive.max_messages.is_none() {
        return;
    }
    let node = Arc::clone(node);
    actix_rt::spawn(async move {
        let mut pace = tokio::time::interval(EXPIRY_INTERVAL);
        loop {
            pace.tick().await;
            expire(&node).await;
        }
    });
}

async fn expire(node: &NodeShared) {
    let archive = &node.settings.archive;
    loop {
        let oldest = archive.max_age.and_then(|age| SystemTime::now().checked_sub(age));
        let expired = node.storage.expire(oldest, archive.max_messages, EXPIRY_BATCH);
        match expired.await {
            Ok(0) => return,
            Ok(messages) => tracing::debug!(messages, "removed from archives"),
            Err(error) => {
                tracing::warn!(%error, "old messages were not removed from archives");
                return;
            }
        }
    }
}
