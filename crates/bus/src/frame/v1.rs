//! Version 1 of the frames, as nodes of the release before speak it. Frozen.

use std::borrow::Cow;
use std::sync::Arc;

use rookery_proto::jid::{BareJid, FullJid, Jid};
use rookery_proto::roster::RosterItem;
use rookery_proto::stanza::Stanza;
use serde::{Deserialize, Serialize};

/// A frame of version 1, borrowed where it is written.
#[derive(Serialize, Deserialize)]
pub(super) enum Frame<'a> {
    Deliver {
        stanza: Cow<'a, Stanza>,
        to: Cow<'a, [FullJid]>,
        responsible: bool,
        hops: u8,
    },
    Broadcast {
        stanza: Cow<'a, Stanza>,
        to: Cow<'a, [BareJid]>,
    },
    RosterChanged {
        account: Cow<'a, BareJid>,
        item: Cow<'a, RosterItem>,
        version: u64,
    },
    BlockListChanged {
        account: Cow<'a, BareJid>,
        added: Cow<'a, [Jid]>,
        removed: Cow<'a, [Jid]>,
        all_removed: bool,
    },
    Evict {
        session: Cow<'a, FullJid>,
        sequence: u64,
    },
    AccountChanged {
        account: Cow<'a, BareJid>,
        removed: bool,
    },
    LogChanged {
        account: Cow<'a, BareJid>,
    },
}

impl<'a> Frame<'a> {
    /// The frame as version 1 has it; `None` if it has none like it.
    pub(super) fn translate(frame: &'a super::Frame) -> Option<Self> {
        use super::Frame as Newest;
        Some(match frame {
            Newest::Deliver(deliver) => Self::Deliver {
                stanza: Cow::Borrowed(&deliver.stanza),
                to: Cow::Borrowed(&deliver.to),
                responsible: deliver.responsible,
                hops: deliver.hops,
            },
            Newest::Broadcast { stanza, to } => Self::Broadcast {
                stanza: Cow::Borrowed(stanza),
                to: Cow::Borrowed(to),
            },
            Newest::RosterChanged {
                account,
                item,
                version,
            } => Self::RosterChanged {
                account: Cow::Borrowed(account),
                item: Cow::Borrowed(item),
                version: *version,
            },
            Newest::BlockListChanged {
                account,
                added,
                removed,
                all_removed,
            } => Self::BlockListChanged {
                account: Cow::Borrowed(account),
                added: Cow::Borrowed(added),
                removed: Cow::Borrowed(removed),
                all_removed: *all_removed,
            },
            Newest::Evict { session, sequence } => Self::Evict {
                session: Cow::Borrowed(session),
                sequence: *sequence,
            },
            Newest::AccountChanged { account, removed } => Self::AccountChanged {
                account: Cow::Borrowed(account),
                removed: *removed,
            },
            Newest::LogChanged { account } => Self::LogChanged {
                account: Cow::Borrowed(account),
            },
            Newest::Carbon { .. }
            | Newest::ResumeAsk { .. }
            | Newest::ResumeAnswer { .. }
            | Newest::ResumeTake { .. }
            | Newest::ResumeState { .. }
            | Newest::OperatorAsk { .. }
            | Newest::OperatorAnswer { .. } => return None,
        })
    }
}

impl From<Frame<'_>> for super::Frame {
    fn from(frame: Frame<'_>) -> Self {
        match frame {
            Frame::Deliver {
                stanza,
                to,
                responsible,
                hops,
            } => Self::Deliver(super::Deliver {
                stanza: Arc::new(stanza.into_owned()),
                to: to.into_owned().into(),
                responsible,
                hops,
                entry: None,
                counts: responsible,
            }),
            Frame::Broadcast { stanza, to } => Self::Broadcast {
                stanza: stanza.into_owned(),
                to: to.into_owned(),
            },
            Frame::RosterChanged {
                account,
                item,
                version,
            } => Self::RosterChanged {
                account: account.into_owned(),
                item: item.into_owned(),
                version,
            },
            Frame::BlockListChanged {
                account,
                added,
                removed,
                all_removed,
            } => Self::BlockListChanged {
                account: account.into_owned(),
                added: added.into_owned(),
                removed: removed.into_owned(),
                all_removed,
            },
            Frame::Evict { session, sequence } => Self::Evict {
                session: session.into_owned(),
                sequence,
            },
            Frame::AccountChanged { account, removed } => Self::AccountChanged {
                account: account.into_owned(),
                removed,
            },
            Frame::LogChanged { account } => Self::LogChanged {
                account: account.into_owned(),
            },
        }
    }
}
