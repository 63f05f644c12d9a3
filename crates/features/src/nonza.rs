//! First-level elements of a stream that are no stanzas: told apart by their names, before anything
//! is read in full.

/// The name, without a prefix, of an element as the framer cuts it out; `None` if there is no name.
///
/// Nothing is checked: what the element is, those find out who read it.
pub(crate) fn local_name(raw: &[u8]) -> Option<&[u8]> {
    let ends_name = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'/' | b'>' | b':');
    let name = raw.strip_prefix(b"<")?;
    let end = name.iter().position(ends_name)?;
    let Some(local) = name[end..].strip_prefix(b":") else {
        return Some(&name[..end]);
    };
    let end = local.iter().position(ends_name)?;
    Some(&local[..end])
}

#[cfg(test)]
mod tests {
    use super::local_name;

    #[test]
    fn names_are_found_with_and_without_a_prefix() {
        for (raw, expected) in [
            ("<a/>", Some("a")),
            ("<a></a>", Some("a")),
            ("<r\nxmlns='a'/>", Some("r")),
            ("<sm:enable\tresume='1'/>", Some("enable")),
            ("<message to='a:b'>", Some("message")),
            ("<a:b:c/>", Some("b")),
            ("<a", None),
            ("<a:b", None),
            ("a/>", None),
            ("", None),
        ] {
            let expected = expected.map(str::as_bytes);
            assert_eq!(local_name(raw.as_bytes()), expected, "{raw}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_have_a_name_or_none(raw in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            if let Some(name) = local_name(&raw) {
                proptest::prop_assert!(name.len() < raw.len());
            }
        }
    }
}
