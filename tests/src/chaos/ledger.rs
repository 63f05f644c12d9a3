//! What became of every message: who sent it, whether the server took responsibility for it, who saw it,
//! and whether it is in the archive.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Instant;

/// A message: the number of its sender, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// Who sent it.
    pub from: usize,
    /// Its number among those of its sender.
    pub number: u32,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.from, self.number)
    }
}

impl std::str::FromStr for Id {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (from, number) = text.split_once('.').ok_or(())?;
        Ok(Self {
            from: from.parse().map_err(drop)?,
            number: number.parse().map_err(drop)?,
        })
    }
}

/// A session of a recipient: it ends with a logout, or with a resumption that was refused.
pub type Session = (usize, u32);

#[derive(Debug, Default)]
struct Message {
    to: usize,
    /// How often it was handed to a new session: once, and again for each session that was lost.
    transmissions: u32,
    acknowledged: bool,
    refused: bool,
    /// How often each session of the recipient saw it.
    seen: HashMap<Session, u32>,
    /// It came with a stamp: from the log.
    late: bool,
    archived: u32,
    /// What happened to it, and when, for people.
    history: Vec<String>,
}

/// All messages.
#[derive(Debug)]
pub struct Ledger {
    began: Instant,
    messages: BTreeMap<Id, Message>,
    /// Messages that nobody sent, or that came to the wrong one.
    strays: Vec<String>,
    /// The last number that a session saw of each sender.
    last_seen: HashMap<(Session, usize), u32>,
    reordered: usize,
}

/// The ledger in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Messages, however often each was transmitted.
    pub sent: usize,
    /// Those that the server acknowledged to their senders.
    pub acknowledged: usize,
    /// Those that came back with an error.
    pub refused: usize,
    /// Seen by their recipients when they were sent.
    pub live: usize,
    /// Seen late, or in the archive alone.
    pub recovered: usize,
    /// Seen again by a recipient's later session.
    pub again: usize,
    /// Overtaken by a later message of the same sender.
    pub reordered: usize,
    /// More often in the archive than they were transmitted.
    pub archived_twice: Vec<Id>,
    /// Seen by one session more often than they were transmitted.
    pub doubled: Vec<Id>,
    /// Acknowledged, not refused, and nowhere.
    pub lost: Vec<Id>,
    /// Messages that should not exist.
    pub strays: Vec<String>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            messages: BTreeMap::new(),
            strays: Vec::new(),
            last_seen: HashMap::new(),
            reordered: 0,
        }
    }
}

impl Ledger {
    fn entry(&mut self, id: Id, event: &str) -> &mut Message {
        let at = self.began.elapsed().as_secs_f64();
        let message = self.messages.entry(id).or_default();
        message.history.push(format!("{at:.2} s {event}"));
        message
    }

    /// What happened to a message.
    pub fn history(&self, id: Id) -> String {
        let history = self
            .messages
            .get(&id)
            .map(|message| message.history.join(", "));
        history.unwrap_or_default()
    }

    /// The messages that were acknowledged and that nobody has seen, nor got back.
    pub fn unseen(&self) -> Vec<Id> {
        let open = self.messages.iter();
        open.filter(|(_, m)| m.acknowledged && !m.refused && m.seen.is_empty())
            .map(|(&id, _)| id)
            .collect()
    }

    /// A message goes out; again after its sender's session was lost.
    pub fn transmitted(&mut self, id: Id, to: usize) {
        let message = self.entry(id, &format!("transmitted to {to}"));
        message.to = to;
        message.transmissions += 1;
    }

    /// The server counted it.
    pub fn acknowledged(&mut self, id: Id) {
        self.entry(id, "acknowledged").acknowledged = true;
    }

    /// It came back with an error.
    pub fn refused(&mut self, id: Id) {
        self.entry(id, "refused").refused = true;
    }

    /// A recipient got it; `late`: with a stamp.
    pub fn seen(&mut self, session: Session, id: Id, late: bool, stanza_id: &str) {
        if self.messages.get(&id).is_none_or(|m| m.to != session.0) {
            self.strays.push(format!("{id} came to {}", session.0));
            return;
        }
        let how = if late { "late" } else { "live" };
        let message = self.entry(
            id,
            &format!("seen {how} by session {} as {stanza_id}", session.1),
        );
        let seen = message.seen.entry(session).or_default();
        *seen += 1;
        let first = *seen == 1 && message.transmissions == 1;
        message.late |= late && message.seen.len() == 1;
        let last = self.last_seen.entry((session, id.from)).or_default();
        if first && id.number < *last {
            self.reordered += 1;
        }
        *last = (*last).max(id.number);
    }

    /// It is in its recipient's archive.
    pub fn archived(&mut self, owner: usize, id: Id) {
        match self.messages.get_mut(&id) {
            Some(message) if message.to == owner => message.archived += 1,
            Some(_) if id.from == owner => {}
            _ => self
                .strays
                .push(format!("{id} is in the archive of {owner}")),
        }
    }

    /// How many sightings there were.
    pub fn sightings(&self) -> u64 {
        let all = self.messages.values().flat_map(|m| m.seen.values());
        all.map(|&times| u64::from(times)).sum()
    }

    /// Adds it all up.
    pub fn balance(&self) -> Balance {
        let mut balance = Balance {
            sent: self.messages.len(),
            reordered: self.reordered,
            strays: self.strays.clone(),
            ..Balance::default()
        };
        for (&id, message) in &self.messages {
            balance.acknowledged += usize::from(message.acknowledged);
            balance.refused += usize::from(message.refused);
            let sessions: HashSet<_> = message.seen.keys().collect();
            if !sessions.is_empty() && !message.late {
                balance.live += 1;
            } else if !sessions.is_empty() || message.archived > 0 {
                balance.recovered += 1;
            } else if message.acknowledged && !message.refused {
                balance.lost.push(id);
            }
            balance.again += sessions.len().saturating_sub(1);
            if message.archived > message.transmissions {
                balance.archived_twice.push(id);
            }
            let most = message.seen.values().max().copied().unwrap_or(0);
            if most > message.transmissions {
                balance.doubled.push(id);
            }
        }
        balance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(number: u32) -> Id {
        Id { from: 1, number }
    }

    fn sent(numbers: std::ops::Range<u32>) -> Ledger {
        let mut ledger = Ledger::default();
        for number in numbers {
            ledger.transmitted(id(number), 2);
            ledger.acknowledged(id(number));
        }
        ledger
    }

    #[test]
    fn what_was_acknowledged_and_is_nowhere_is_lost() {
        let mut ledger = sent(0..5);
        ledger.seen((2, 0), id(0), false, "x");
        ledger.seen((2, 0), id(1), true, "x");
        ledger.archived(2, id(2));
        ledger.refused(id(3));
        let balance = ledger.balance();
        assert_eq!(
            (balance.live, balance.recovered, balance.refused),
            (1, 2, 1)
        );
        assert_eq!(balance.lost, [id(4)]);
    }

    #[test]
    fn a_session_sees_a_message_as_often_as_it_was_transmitted() {
        let mut ledger = sent(0..2);
        ledger.seen((2, 0), id(0), false, "x");
        ledger.seen((2, 1), id(0), true, "x");
        assert_eq!(
            (ledger.balance().again, ledger.balance().doubled),
            (1, vec![])
        );
        ledger.seen((2, 1), id(0), true, "x");
        assert_eq!(ledger.balance().doubled, [id(0)]);
        ledger.transmitted(id(0), 2);
        assert_eq!(ledger.balance().doubled, []);
    }

    #[test]
    fn messages_of_nobody_and_for_others_are_strays() {
        let mut ledger = sent(0..1);
        ledger.seen((3, 0), id(0), false, "x");
        ledger.seen((2, 0), id(7), false, "x");
        assert_eq!(ledger.balance().strays.len(), 2);
    }

    #[test]
    fn overtaking_is_noticed() {
        let mut ledger = sent(0..3);
        for number in [0, 2, 1] {
            ledger.seen((2, 0), id(number), false, "x");
        }
        assert_eq!(ledger.balance().reordered, 1);
    }
}
