//! What is wrong in files that can be read.

use std::fmt;

use rookery_proto::jid::BareJid;

/// Problems that are told one by one.
const MAX_PROBLEMS: usize = 100;

/// Something that is wrong in a file that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// File, line and column.
    pub(crate) place: String,
    /// In whose data.
    pub(crate) account: Option<BareJid>,
    /// What is wrong.
    pub(crate) reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if let Some(account) = &self.account {
            write!(f, " (account {account})")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// All that is wrong, of which the first are told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Problems {
    /// The first ones.
    pub(crate) first: Vec<Problem>,
    /// How many more there are.
    pub(crate) more: u64,
}

impl Problems {
    /// Adds one.
    pub(super) fn add(
        &mut self,
        place: String,
        account: Option<&BareJid>,
        reason: &dyn fmt::Display,
    ) {
        if self.first.len() == MAX_PROBLEMS {
            self.more += 1;
            return;
        }
        self.first.push(Problem {
            place,
            account: account.cloned(),
            reason: reason.to_string(),
        });
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.first.iter().enumerate() {
            let newline = if number == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}
