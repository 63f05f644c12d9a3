//! The messages of one account, on their way through a file: an archive does not fit into memory, and
//! has to be known as a whole before it is written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rookery_features::xep0227_portable::Logged;
use rookery_proto::jid::Jid;
use serde::{Deserialize, Serialize};

/// Messages in the order in which they came. The file has no name, and goes with the process.
#[derive(Debug)]
pub(crate) struct Spool {
    file: BufWriter<File>,
    count: u64,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    id: Option<String>,
    /// Since 1970.
    at: Option<Duration>,
    peer: Jid,
    sent: bool,
    stanza: String,
}

impl Spool {
    /// An empty one, in a file system of this directory.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::new(tempfile::tempfile_in(directory)?),
            count: 0,
        })
    }

    /// Adds a message.
    pub(crate) fn push(&mut self, message: Logged) -> io::Result<()> {
        let line = Line {
            id: message.id,
            at: message
                .at
                .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()),
            peer: message.peer,
            sent: message.sent,
            stanza: message.stanza,
        };
        serde_json::to_writer(&mut self.file, &line)?;
        self.count += 1;
        self.file.write_all(b"\n")
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// All of them, from the first.
    pub(crate) fn read(&mut self) -> io::Result<impl Iterator<Item = io::Result<Logged>> + use<>> {
        self.file.flush()?;
        let mut file = self.file.get_ref().try_clone()?;
        // The copy shares the position; nobody writes while it is read.
        file.seek(SeekFrom::Start(0))?;
        let lines = BufReader::new(file).lines();
        Ok(lines.map(|line| {
            let line: Line = serde_json::from_str(&line?)?;
            Ok(Logged {
                id: line.id,
                at: line.at.map(|since| SystemTime::UNIX_EPOCH + since),
                peer: line.peer,
                sent: line.sent,
                stanza: line.stanza,
            })
        }))
    }

    /// Forgets them.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        if self.count > 0 {
            self.count = 0;
            self.file.flush()?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.get_ref().set_len(0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(directory.path()).unwrap();
        let message = |number: u64| Logged {
            id: (number > 1).then(|| number.to_string()),
            at: Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(number * 1000)),
            peer: Jid::parse("bob@x/r").unwrap(),
            sent: number == 2,
            stanza: "<message>\n\u{1F511}</message>".to_owned(),
        };
        for round in 0..2 {
            assert_eq!(spool.count(), 0);
            let messages: Vec<_> = (round..round + 3).map(message).collect();
            for one in messages.clone() {
                spool.push(one).unwrap();
            }
            for _ in 0..2 {
                let read: Vec<_> = spool.read().unwrap().map(Result::unwrap).collect();
                assert_eq!(read, messages);
            }
            spool.clear().unwrap();
        }
    }
}
