//! What clients see of each other, and which answers they get.
//!
//! Each robot is subscribed to the presence of the next one. While nodes are drained or upgraded nobody may
//! see a *flap*: a client that goes away and comes back, although it only moved to another node.

use std::collections::{BTreeMap, BTreeSet};

use super::robot::name;

/// Who looks, and at whom.
type Sight = (usize, usize);

/// What all robots together have seen.
#[derive(Debug, Default)]
pub struct Watch {
    /// What happens that may not be seen.
    unseen: Option<&'static str>,
    /// Who sees whom.
    seen: BTreeSet<Sight>,
    /// Who saw somebody go away during what.
    gone: BTreeMap<Sight, &'static str>,
    flaps: Vec<String>,
    /// How often each request was answered: with a result, with an error.
    requests: BTreeMap<String, (u32, u32)>,
}

/// Requests in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Those that were sent.
    pub asked: usize,
    /// Those that got a result first or an error first.
    pub answered: usize,
    /// Those among them that got an error.
    pub refused: usize,
    /// Those that got more than one answer.
    pub answered_twice: Vec<String>,
}

impl Watch {
    /// From now on something happens that contacts may not see, or something that they may.
    pub fn begins(&mut self, event: &'static str, is_seen: bool) {
        self.unseen = (!is_seen).then_some(event);
    }

    /// A robot got the presence of a contact.
    pub fn presence(&mut self, robot: usize, contact: usize, is_available: bool) {
        let sight = (robot, contact);
        if is_available {
            self.seen.insert(sight);
            if let Some(event) = self.gone.remove(&sight) {
                let (robot, contact) = (name(robot), name(contact));
                self.flaps
                    .push(format!("{robot} saw {contact} flap: {event}"));
            }
        } else if let Some(event) = self.unseen {
            self.gone.insert(sight, event);
        }
    }

    /// How many see their contact.
    pub fn pairs(&self) -> usize {
        self.seen.len()
    }

    /// The flaps that were seen.
    pub fn flaps(&self) -> &[String] {
        &self.flaps
    }

    /// A request was sent.
    pub fn asked(&mut self, id: String) {
        self.requests.entry(id).or_default();
    }

    /// It was answered.
    pub fn answered(&mut self, id: &str, is_result: bool) {
        let (results, errors) = self.requests.entry(id.to_owned()).or_default();
        *if is_result { results } else { errors } += 1;
    }

    /// Adds the requests up.
    pub fn requests(&self) -> Requests {
        let mut all = Requests {
            asked: self.requests.len(),
            ..Requests::default()
        };
        for (id, &(results, errors)) in &self.requests {
            all.answered += usize::from(results + errors > 0);
            all.refused += usize::from(errors > 0);
            if results + errors > 1 {
                all.answered_twice
                    .push(format!("{id}: {results} results, {errors} errors"));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flap_is_seen_where_there_may_be_none() {
        let mut watch = Watch::default();
        watch.begins("node killed", true);
        watch.presence(1, 2, false);
        watch.presence(1, 2, true);
        assert!(watch.flaps().is_empty());
        watch.begins("node drained", false);
        watch.presence(1, 2, false);
        watch.begins("node killed", true);
        watch.presence(1, 2, true);
        assert_eq!(watch.flaps(), ["robot1 saw robot2 flap: node drained"]);
        assert_eq!(watch.pairs(), 1);
    }

    #[test]
    fn a_request_gets_one_answer() {
        let mut watch = Watch::default();
        for id in ["a", "b", "c"] {
            watch.asked(id.to_owned());
        }
        watch.answered("a", true);
        watch.answered("b", false);
        assert_eq!(
            watch.requests(),
            Requests {
                asked: 3,
                answered: 2,
                refused: 1,
                answered_twice: Vec::new()
            }
        );
        watch.answered("b", true);
        assert_eq!(watch.requests().answered_twice, ["b: 1 results, 1 errors"]);
    }
}
