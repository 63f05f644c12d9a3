//! How far a log is delivered.

use std::collections::VecDeque;

use crate::{Error, MAX_AHEAD};

/// What is delivered of one log, and what is not.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    /// Nothing up to this id is undelivered.
    delivered: i64,
    /// Archived entries above the mark that are delivered, sorted.
    ahead: Vec<i64>,
    /// Undelivered entries, sorted, and whether each is in the archive.
    undelivered: VecDeque<(i64, bool)>,
}

/// What confirming an entry's delivery means for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// It was delivered already, or there is no such entry.
    Ignored,
    /// It stays, as it is in the archive.
    Kept,
    /// It is in no archive, so that nobody needs it any more.
    Useless,
    /// It remains undelivered: too many older ones are.
    Forgotten,
}

impl Deliveries {
    /// A log as it is stored; its pending entries above the mark are then told to [`Self::push`].
    pub(super) fn new(delivered: i64, ahead: Vec<i64>) -> Self {
        Self {
            delivered,
            ahead,
            undelivered: VecDeque::new(),
        }
    }

    /// The delivered mark.
    pub(super) fn mark(&self) -> i64 {
        self.delivered
    }

    /// Ids above the mark that are delivered all the same, sorted.
    pub(super) fn ahead(&self) -> &[i64] {
        &self.ahead
    }

    /// Number of undelivered entries.
    pub(super) fn count(&self) -> usize {
        self.undelivered.len()
    }

    /// Whether an entry is undelivered.
    pub(super) fn is_undelivered(&self, id: i64) -> bool {
        self.find(id).is_some()
    }

    /// Notes the next entry of the log. Entries that are not pending move the mark over themselves.
    pub(super) fn push(&mut self, id: i64, pending: bool, archived: bool) {
        if pending && self.ahead.binary_search(&id).is_err() {
            self.undelivered.push_back((id, archived));
        } else if self.undelivered.is_empty() {
            self.move_mark(id);
        }
    }

    /// Notes that an entry was delivered. `newest` is the newest entry that the log may have.
    pub(super) fn confirm(&mut self, id: i64, newest: i64) -> Confirmed {
        let Some(place) = self.find(id) else {
            return Confirmed::Ignored;
        };
        let archived = self.undelivered[place].1;
        // The oldest one moves the mark, and needs no place in the list.
        if archived && place > 0 && !self.remember(id) {
            return Confirmed::Forgotten;
        }
        // Remembering may have brought one back, but only behind this one.
        self.undelivered.remove(place);
        match self.undelivered.front() {
            None => self.move_mark(newest),
            Some((first, _)) => self.move_mark(first - 1),
        }
        if archived {
            Confirmed::Kept
        } else {
            Confirmed::Useless
        }
    }

    /// Puts an id into the list of those that are ahead. False if it is newer than all that fit.
    fn remember(&mut self, id: i64) -> bool {
        if self.ahead.len() >= MAX_AHEAD {
            match self.ahead.last() {
                Some(&newest) if newest > id => {
                    self.ahead.pop();
                    let place = self.undelivered.partition_point(|(one, _)| *one < newest);
                    self.undelivered.insert(place, (newest, true));
                }
                _ => return false,
            }
        }
        let place = self.ahead.partition_point(|one| *one < id);
        self.ahead.insert(place, id);
        true
    }

    fn move_mark(&mut self, to: i64) {
        self.delivered = self.delivered.max(to);
        let passed = self.ahead.partition_point(|id| *id <= self.delivered);
        self.ahead.drain(..passed);
    }

    fn find(&self, id: i64) -> Option<usize> {
        // Most often it is the oldest.
        match self.undelivered.front() {
            Some((first, _)) if *first == id => Some(0),
            _ => self.undelivered.binary_search_by_key(&id, |one| one.0).ok(),
        }
    }
}

/// The list of ids ahead as it is stored: eight octets each, little end first.
pub(super) fn to_blob(ids: &[i64]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// What [`to_blob`] gave.
pub(super) fn from_blob(blob: &[u8]) -> Result<Vec<i64>, Error> {
    let (ids, rest) = blob.as_chunks::<8>();
    if rest.is_empty() {
        Ok(ids.iter().map(|id| i64::from_le_bytes(*id)).collect())
    } else {
        Err(Error::corrupt("delivered mark", "its length is odd"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[(i64, bool, bool)]) -> Deliveries {
        let mut log = Deliveries::default();
        for &(id, pending, archived) in entries {
            log.push(id, pending, archived);
        }
        log
    }

    #[test]
    fn the_mark_moves_over_what_is_delivered_or_not_pending() {
        let mut log = log(&[
            (1, false, true),
            (2, true, true),
            (3, false, true),
            (4, true, true),
            (6, true, false),
        ]);
        assert_eq!((log.mark(), log.count()), (1, 3));

        assert_eq!(log.confirm(4, 6), Confirmed::Kept);
        assert_eq!((log.mark(), log.ahead()), (1, &[4][..]));
        assert_eq!(log.confirm(4, 6), Confirmed::Ignored);
        assert_eq!(log.confirm(3, 6), Confirmed::Ignored);
        assert_eq!(log.confirm(9, 6), Confirmed::Ignored);
        assert_eq!(log.confirm(2, 6), Confirmed::Kept);
        assert_eq!((log.mark(), log.ahead()), (5, &[][..]));
        assert_eq!(log.confirm(6, 8), Confirmed::Useless);
        assert_eq!((log.mark(), log.count()), (8, 0));
    }

    #[test]
    fn what_is_in_no_archive_is_not_remembered() {
        let mut log = log(&[(1, true, true), (2, true, false), (3, true, true)]);
        assert_eq!(log.confirm(2, 3), Confirmed::Useless);
        assert!(log.ahead().is_empty());
        assert_eq!((log.mark(), log.count()), (0, 2));
    }

    #[test]
    fn beyond_the_bound_the_newest_are_forgotten() {
        let bound = i64::try_from(MAX_AHEAD).unwrap();
        let entries: Vec<_> = (1..=bound + 10).map(|id| (id, true, true)).collect();
        let mut log = log(&entries);
        let newest = bound + 10;
        for id in (11..=newest).rev() {
            assert_eq!(log.confirm(id, newest), Confirmed::Kept);
        }
        assert_eq!((log.ahead().len(), log.count()), (MAX_AHEAD, 10));

        // An older one takes the place of the newest, which becomes undelivered again.
        assert_eq!(log.confirm(5, newest), Confirmed::Kept);
        assert_eq!((log.ahead().len(), log.count()), (MAX_AHEAD, 10));
        assert!(log.is_undelivered(newest));
        assert_eq!(log.confirm(newest, newest), Confirmed::Forgotten);
        assert!(log.is_undelivered(newest));
        // And the mark goes on as the oldest are confirmed.
        for id in [1, 2, 3, 4, 6, 7, 8, 9, 10] {
            assert_eq!(log.confirm(id, newest), Confirmed::Kept);
        }
        assert_eq!((log.mark(), log.count()), (newest - 1, 1));
        assert!(log.ahead().is_empty());
    }

    #[test]
    fn a_stored_list_reads_back() {
        let ids = [1, 256, i64::MAX];
        assert_eq!(from_blob(&to_blob(&ids)).unwrap(), ids);
        assert!(from_blob(&[1, 2, 3]).is_err());
    }
}
