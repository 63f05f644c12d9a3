//! What nodes call each other.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One incarnation of a node: a number drawn at random when the process starts.
///
/// A node that restarts gets a new epoch, so whatever still names the old one is known to be stale.
/// Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

/// The text was not 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an epoch is 16 hexadecimal digits")]
pub struct InvalidEpoch;

impl std::str::FromStr for Epoch {
    type Err = InvalidEpoch;

    fn from_str(text: &str) -> Result<Self, InvalidEpoch> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidEpoch);
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| InvalidEpoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_shown_as_16_hex_digits_and_read_back() {
        assert_eq!(Epoch(0xab).to_string(), "00000000000000ab");
        assert_eq!("00000000000000ab".parse(), Ok(Epoch(0xab)));
        assert_eq!(Epoch(u64::MAX).to_string().parse(), Ok(Epoch(u64::MAX)));
        for bad in [
            "",
            "ab",
            "+0000000000000ab",
            "00000000000000xy",
            "00000000000000ab0",
        ] {
            assert_eq!(bad.parse::<Epoch>(), Err(InvalidEpoch), "{bad}");
        }
    }
}
