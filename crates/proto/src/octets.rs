//! Numbers and texts one after the other in octets, as nodes write them for each other.
//!
//! A number takes seven bits to an octet, the lowest first; all octets but its last have the highest bit
//! set.

/// What is left to read. Nothing is read past the end: then there is `None`.
#[derive(Clone, Copy, Debug)]
pub struct Octets<'a>(&'a [u8]);

/// Appends a number.
#[inline]
pub fn put_number(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Appends a text and, before it, its length.
#[inline]
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

impl<'a> Octets<'a> {
    /// All of these are left.
    pub fn of(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next octet.
    #[inline]
    pub fn octet(&mut self) -> Option<u8> {
        let (octet, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*octet)
    }

    /// The next number; `None` also if it is one of more than 32 bits.
    #[inline]
    pub fn number(&mut self) -> Option<usize> {
        let first = self.octet()?;
        if first < 0x80 {
            return Some(usize::from(first));
        }
        let mut number = u64::from(first & 0x7f);
        for shift in [7, 14, 21, 28] {
            let octet = self.octet()?;
            number |= u64::from(octet & 0x7f) << shift;
            if octet < 0x80 {
                return usize::try_from(u32::try_from(number).ok()?).ok();
            }
        }
        None
    }

    /// So many octets.
    #[inline]
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// So many octets of text.
    #[inline]
    pub fn text_of(&mut self, length: usize) -> Option<&'a str> {
        simdutf8::basic::from_utf8(self.take(length)?).ok()
    }

    /// A text behind its length.
    #[inline]
    pub fn text(&mut self) -> Option<&'a str> {
        let length = self.number()?;
        self.text_of(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_of_more_than_32_bits_and_what_is_cut_off_are_refused() {
        for bad in [
            &[][..],
            &[0x80],
            &[0xff, 0xff, 0xff, 0xff, 0x1f],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
        ] {
            assert_eq!(Octets::of(bad).number(), None, "{bad:?}");
        }
        assert_eq!(Octets::of(&[2, b'a']).text(), None);
        assert_eq!(Octets::of(&[1, 0xff]).text(), None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_equal(number: u32, text in ".*", other: u8) {
            let mut out = Vec::new();
            put_number(&mut out, number as usize);
            put_text(&mut out, &text);
            out.push(other);
            let mut octets = Octets::of(&out);
            prop_assert_eq!(octets.number(), Some(number as usize));
            prop_assert_eq!(octets.text(), Some(&*text));
            prop_assert_eq!(octets.octet(), Some(other));
            prop_assert!(octets.is_empty());
            prop_assert_eq!(octets.octet(), None);
        }
    }
}
