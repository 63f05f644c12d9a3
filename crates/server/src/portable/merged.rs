//! The messages of one account, from its archive and those that wait for it.

use std::collections::HashSet;
use std::io;
use std::iter::Peekable;

use rookery_features::xep0227_portable::Logged;

use super::reading::Kind;

/// The messages of an account in the order of their times; those that are in the archive and offline
/// come once, from the archive.
pub(super) struct Merged<A: Iterator, O: Iterator> {
    /// Those of the archive.
    pub(super) archive: Peekable<A>,
    /// Those that are not delivered yet.
    pub(super) offline: Peekable<O>,
    /// Ids of those that are in both.
    pub(super) both: HashSet<String>,
}

impl<A, O> Merged<A, O>
where
    A: Iterator<Item = io::Result<Logged>>,
    O: Iterator<Item = io::Result<Logged>>,
{
    /// The next one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<(Logged, Kind)>> {
        let is_double = |message: &io::Result<Logged>| {
            let id = message
                .as_ref()
                .ok()
                .and_then(|message| message.id.as_ref());
            id.is_some_and(|id| self.both.contains(id))
        };
        while self.offline.next_if(is_double).is_some() {}
        let at = |message: Option<&io::Result<Logged>>| {
            message.map(|message| message.as_ref().ok().and_then(|message| message.at))
        };
        let archive_is_first = match (at(self.archive.peek()), at(self.offline.peek())) {
            (None, None) => return Ok(None),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            // One without a time is a new one.
            (Some(archived), Some(offline)) => offline.is_none() || archived <= offline,
        };
        let (next, kind) = if archive_is_first {
            (self.archive.next(), Kind::Archived)
        } else {
            (self.offline.next(), Kind::Offline)
        };
        next.map(|message| message.map(|message| (message, kind)))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rookery_proto::jid::Jid;

    use super::*;

    fn message(id: Option<&str>, at: Option<u64>) -> Logged {
        Logged {
            id: id.map(ToOwned::to_owned),
            at: at.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
            peer: Jid::parse("bob@x").unwrap(),
            sent: false,
            stanza: String::new(),
        }
    }

    #[test]
    fn messages_come_once_in_the_order_of_their_times() {
        let archive = vec![
            message(Some("a"), Some(1)),
            message(Some("b"), Some(5)),
            message(Some("c"), Some(3)),
        ];
        let offline = vec![
            message(None, Some(2)),
            message(Some("c"), Some(4)),
            message(Some("d"), Some(5)),
            message(Some("e"), None),
        ];
        let mut merged = Merged {
            archive: archive.into_iter().map(Ok).peekable(),
            offline: offline.into_iter().map(Ok).peekable(),
            both: HashSet::from(["c".to_owned()]),
        };
        let mut order = Vec::new();
        while let Some((message, kind)) = merged.next().unwrap() {
            order.push((message.id.unwrap_or_default(), kind));
        }
        let expected = [
            ("a", Kind::Archived),
            ("", Kind::Offline),
            ("b", Kind::Archived),
            ("c", Kind::Archived),
            ("d", Kind::Offline),
            ("e", Kind::Offline),
        ];
        assert_eq!(order, expected.map(|(id, kind)| (id.to_owned(), kind)));
    }
}
