use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Result<String, Error> {
    Jid::parse(text).map(|jid| jid.as_str().to_owned())
}

#[test]
fn an_address_is_split_into_its_parts() {
    let jid = Jid::parse("juliet@example.com/balcony@x/y").unwrap();
    assert_eq!(jid.local(), Some("juliet"));
    assert_eq!(jid.domain(), "example.com");
    assert_eq!(jid.resource(), Some("balcony@x/y"));
    assert_eq!(jid.bare_str(), "juliet@example.com");
    assert!(!jid.is_bare());

    let domain = Jid::parse("example.com").unwrap();
    assert_eq!(
        (domain.local(), domain.domain(), domain.resource()),
        (None, "example.com", None)
    );
    assert!(domain.is_bare());
    assert_eq!(domain.to_full(), None);

    let server = Jid::parse("example.com/a@b").unwrap();
    assert_eq!((server.local(), server.resource()), (None, Some("a@b")));
}

/// RFC 7622 §3.5, table 1.
#[test]
fn the_examples_of_rfc_7622_are_accepted() {
    for (text, prepared) in [
        ("juliet@example.com", "juliet@example.com"),
        ("juliet@example.com/foo", "juliet@example.com/foo"),
        ("juliet@example.com/foo bar", "juliet@example.com/foo bar"),
        ("juliet@example.com/foo@bar", "juliet@example.com/foo@bar"),
        ("foo\\20bar@example.com", "foo\\20bar@example.com"),
        ("fussball@example.com", "fussball@example.com"),
        ("fu\u{df}ball@example.com", "fu\u{df}ball@example.com"),
        ("\u{3c0}@example.com", "\u{3c0}@example.com"),
        ("\u{3a3}@example.com/foo", "\u{3c3}@example.com/foo"),
        ("\u{3c3}@example.com/foo", "\u{3c3}@example.com/foo"),
        ("\u{3c2}@example.com/foo", "\u{3c2}@example.com/foo"),
        ("king@example.com/\u{265a}", "king@example.com/\u{265a}"),
        ("example.com", "example.com"),
        ("example.com/foobar", "example.com/foobar"),
        ("a.example.com/b@example.net", "a.example.com/b@example.net"),
    ] {
        assert_eq!(parsed(text).as_deref(), Ok(prepared), "{text}");
    }
}

/// RFC 7622 §3.5, table 2.
#[test]
fn the_counter_examples_of_rfc_7622_are_refused() {
    for (text, error) in [
        ("\"juliet\"@example.com", Error::Local),
        ("foo bar@example.com", Error::Local),
        ("@example.com", Error::Local),
        ("henry\u{2163}@example.com", Error::Local),
        ("\u{265a}@example.com", Error::Local),
        ("juliet@", Error::Domain),
        ("juliet@example.com/", Error::Resource),
        ("/foobar", Error::Domain),
    ] {
        assert_eq!(parsed(text), Err(error), "{text}");
    }
}

#[test]
fn each_part_is_prepared() {
    for (text, prepared) in [
        ("JULIET@EXAMPLE.com/Balcony", "juliet@example.com/Balcony"),
        ("juliet@example.com./x", "juliet@example.com/x"),
        ("example.com.", "example.com"),
        ("\u{c4}rger@example.com", "\u{e4}rger@example.com"),
        ("e\u{301}@example.com", "\u{e9}@example.com"),
        ("\u{ff41}\u{ff42}@example.com", "ab@example.com"),
        ("a@b\u{fc}cher.example", "a@b\u{fc}cher.example"),
        ("a@B\u{dc}CHER.example", "a@b\u{fc}cher.example"),
        ("a@xn--bcher-kva.example", "a@b\u{fc}cher.example"),
        ("a@fa\u{df}.example", "a@fa\u{df}.example"),
        ("a@example.com/e\u{301}\u{a0}x", "a@example.com/\u{e9} x"),
        ("a@127.0.0.1", "a@127.0.0.1"),
        ("a@[::1]/x", "a@[::1]/x"),
        ("a@[2001:DB8:0::1]", "a@[2001:db8::1]"),
        ("john.doe+x!#$%*=?^`{|}~@h", "john.doe+x!#$%*=?^`{|}~@h"),
    ] {
        assert_eq!(parsed(text).as_deref(), Ok(prepared), "{text}");
    }
}

#[test]
fn what_is_no_address_is_refused() {
    for (text, error) in [
        ("", Error::Domain),
        ("@", Error::Local),
        ("/", Error::Domain),
        ("a@b@c", Error::Domain),
        ("a@.", Error::Domain),
        ("a@b..c", Error::Domain),
        ("a@.b", Error::Domain),
        ("a@b c", Error::Domain),
        ("a@b_c", Error::Domain),
        ("a@-b", Error::Domain),
        ("a@b-", Error::Domain),
        ("a@ab--c", Error::Domain),
        ("a@xn--\u{fc}", Error::Domain),
        ("a@xn--", Error::Domain),
        ("a@b\u{2028}c", Error::Domain),
        ("a@[::1", Error::Domain),
        ("a@[::g]", Error::Domain),
        ("a@[127.0.0.1]", Error::Domain),
        ("a@[]", Error::Domain),
        ("a&b@c", Error::Local),
        ("a'b@c", Error::Local),
        ("a:b@c", Error::Local),
        ("a<b@c", Error::Local),
        ("a>b@c", Error::Local),
        ("a\u{7f}b@c", Error::Local),
        ("a\u{ff20}b@c", Error::Local),
        ("a\u{200b}b@c", Error::Local),
        ("a@b/\u{7}", Error::Resource),
        ("a@b/\u{7f}", Error::Resource),
        ("a@b/\u{e9}\u{85}", Error::Resource),
        ("a@b/\u{fffe}", Error::Resource),
    ] {
        assert_eq!(parsed(text), Err(error), "{text:?}");
    }
}

#[test]
fn a_part_has_at_most_1023_octets() {
    let long = "a".repeat(MAX_PART_BYTES);
    let label = format!("{}.", "b".repeat(63)).repeat(15);
    let domain = format!("{label}{}", "b".repeat(63));
    let full = format!("{long}@{domain}/{long}");
    assert_eq!(full.len(), 3 * MAX_PART_BYTES + 2);
    assert_eq!(parsed(&full).as_deref(), Ok(&*full));
    assert_eq!(parsed(&format!("{long}a@b")), Err(Error::TooLong));
    assert_eq!(parsed(&format!("a@b/{long}a")), Err(Error::TooLong));
    assert_eq!(parsed(&format!("a@{domain}.c")), Err(Error::TooLong));
    assert_eq!(parsed(&format!("a@{}", "b".repeat(64))), Err(Error::Domain));
    // Octets count, not characters.
    assert_eq!(
        parsed(&format!("{}@b", "\u{e9}".repeat(512))),
        Err(Error::TooLong)
    );
    assert!(parsed(&format!("{}@b", "\u{e9}".repeat(511))).is_ok());
    assert_eq!(
        parsed(&format!("a@b/{}", "\u{e9}".repeat(100_000))),
        Err(Error::TooLong)
    );
}

#[test]
fn bare_and_full_addresses_are_told_apart() {
    assert_eq!(BareJid::parse("a@b/c"), Err(Error::NotBare));
    assert_eq!(FullJid::parse("a@b"), Err(Error::NotFull));
    let full = FullJid::parse("A@b/c").unwrap();
    assert_eq!(full.resource(), "c");
    assert_eq!(full.to_bare(), "a@b");
    assert_eq!(full.to_bare().as_str(), "a@b");
    assert_eq!(Jid::from(full.to_bare()).as_str(), "a@b");
    assert!(Jid::from(full.to_bare()).is_bare());
    assert_eq!(
        full.to_bare().compact(),
        BareJid::new(Some("a"), "b").unwrap()
    );
    assert_eq!(full.to_bare().with_resource("d\u{a0}").unwrap(), "a@b/d ");
    assert_eq!(full.to_bare().with_resource(""), Err(Error::Resource));
    assert_eq!(BareJid::new(None, "B").unwrap(), "b");
    assert_eq!(BareJid::new(Some(""), "b"), Err(Error::Local));
    assert_eq!(BareJid::new(Some("a/b"), "b"), Err(Error::Local));
    assert_eq!(BareJid::new(Some("a"), "b/c"), Err(Error::Domain));
    assert!(full.as_jid().same_bare(&Jid::parse("a@b/other").unwrap()));
    assert_eq!(Jid::from(&full).to_full(), Some(full));
}

#[test]
fn a_map_is_searched_by_text() {
    let full = FullJid::parse("a@b/c").unwrap();
    let mut accounts = HashMap::new();
    accounts.insert(full.to_bare(), 1);
    assert_eq!(accounts.get("a@b"), Some(&1));
    assert_eq!(accounts.get(&BareJid::parse("a@b").unwrap()), Some(&1));
    let sessions = HashMap::from([(full, 2)]);
    assert_eq!(sessions.get("a@b/c"), Some(&2));
}

#[test]
fn serde_writes_text_and_checks_what_it_reads() {
    let full = FullJid::parse("a@b/c").unwrap();
    assert_eq!(serde_json::to_string(&full).unwrap(), "\"a@b/c\"");
    assert_eq!(serde_json::to_string(&full.to_bare()).unwrap(), "\"a@b\"");
    assert_eq!(serde_json::from_str::<FullJid>("\"A@b/c\"").unwrap(), full);
    assert!(serde_json::from_str::<BareJid>("\"a@b/c\"").is_err());
    assert!(serde_json::from_str::<Jid>("\"a b@c\"").is_err());
}

fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9.-]{1,12}",
        "[ -~]{0,8}",
        "[a-z\u{e0}-\u{17f}\u{300}-\u{36f}\u{370}-\u{3ff}\u{ff00}-\u{ff60}\u{1e00}-\u{1fff}]{1,8}",
        "\\PC{0,8}",
        any::<String>(),
        "xn--[a-z0-9-]{0,10}",
        "\\[[0-9a-f:.]{0,20}\\]",
    ]
}

#[test]
fn what_was_not_prepared_is_prepared_all_the_same() {
    for text in [
        "Juliet@Example.com/balcony",
        "juliet@EXAMPLE.com",
        "j\u{fc}rgen@b\u{fc}cher.example/b\u{fc}ro",
        "[2001:DB8::1]",
        "juliet@example.com/balcony@x/y",
    ] {
        assert_eq!(Jid::prepared(text), Jid::parse(text), "{text}");
    }
    let long = "a".repeat(MAX_PART_BYTES + 1);
    for text in [
        "",
        "@example.com",
        "juliet@",
        "juliet@/x",
        "example.com/",
        "ju liet@example.com",
        "juliet@exa<mple.com",
        "juliet@example.com/\n",
        &format!("{long}@example.com"),
        &format!("example.com/{long}"),
    ] {
        assert_eq!(Jid::prepared(text), Jid::parse(text), "{text}");
        assert!(Jid::prepared(text).is_err(), "{text}");
    }
    assert_eq!(FullJid::prepared("juliet@example.com"), Err(Error::NotFull));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_prepared_address_is_prepared_to_itself(
        local in prop::option::of(part()),
        domain in part(),
        resource in prop::option::of(part()),
    ) {
        let mut text = local.map(|local| local + "@").unwrap_or_default() + &domain;
        if let Some(resource) = resource {
            text = text + "/" + &resource;
        }
        if let Ok(jid) = Jid::parse(&text) {
            let believed = Jid::prepared(jid.as_str()).unwrap();
            prop_assert_eq!(
                (believed.local(), believed.domain(), believed.resource()),
                (jid.local(), jid.domain(), jid.resource())
            );
            let again = Jid::parse(jid.as_str());
            prop_assert_eq!(again.as_ref(), Ok(&jid), "{:?}", text);
            let again = again.unwrap();
            prop_assert_eq!(
                (again.local(), again.domain(), again.resource()),
                (jid.local(), jid.domain(), jid.resource())
            );
            let bare = jid.to_bare();
            prop_assert_eq!(bare.as_str(), jid.bare_str());
            let rebuilt = BareJid::new(jid.local(), jid.domain()).unwrap();
            prop_assert_eq!(rebuilt.as_str(), jid.bare_str());
        }
    }

    #[test]
    fn any_text_is_an_address_or_refused(text in any::<String>()) {
        let _ = Jid::parse(&text);
    }
}
