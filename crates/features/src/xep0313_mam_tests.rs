use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::testing::{element, iq, message};

fn parse(children: &str) -> Result<Query, Condition> {
    Query::parse(&iq(
        "set",
        &format!("<query xmlns='urn:xmpp:mam:2'>{children}</query>"),
    ))
}

/// A query with a form of these fields.
fn filtered(fields: &[(&str, &str)]) -> Result<Query, Condition> {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("<field var='{name}'><value>{value}</value></field>"))
        .collect();
    let fields = fields.concat();
    parse(&format!(
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'>\
         <value>urn:xmpp:mam:2</value></field>{fields}</x>"
    ))
}

fn paged(children: &str) -> Result<Query, Condition> {
    parse(&format!(
        "<set xmlns='http://jabber.org/protocol/rsm'>{children}</set>"
    ))
}

fn at(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

/// §4
#[test]
fn without_filters_everything_is_found() {
    assert_eq!(parse(""), Ok(Query::default()));
    assert_eq!(filtered(&[]), Ok(Query::default()));
    let with_id = iq("set", "<query xmlns='urn:xmpp:mam:2' queryid='f27'/>");
    assert_eq!(
        Query::parse(&with_id).unwrap().query_id.as_deref(),
        Some("f27")
    );
}

/// §4.1.1, §4.1.2
#[test]
fn messages_are_found_by_peer_and_time() {
    let query = filtered(&[
        ("with", "Juliet@capulet.lit"),
        ("start", "2010-06-07T00:00:00Z"),
        ("end", "2010-07-07T13:23:54.5+02:00"),
    ])
    .unwrap();
    assert_eq!(query.with, Some(Jid::parse("juliet@capulet.lit").unwrap()));
    assert_eq!(query.start, Some(at(1_275_868_800_000)));
    assert_eq!(query.end, Some(at(1_278_501_834_500)));
    let empty = filtered(&[("with", ""), ("start", ""), ("ids", "")]);
    assert_eq!(empty, Ok(Query::default()));
}

#[test]
fn times_before_any_archive_are_times() {
    for early in [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59.9-05:00",
        "1904-02-29T00:00:00Z",
    ] {
        let query = filtered(&[("start", early)]);
        assert_eq!(
            query.map(|query| query.start),
            Ok(Some(UNIX_EPOCH)),
            "{early}"
        );
    }
}

/// §4.1.3
#[test]
fn messages_are_found_by_id() {
    let query = filtered(&[("after-id", "12"), ("before-id", "18446744073709551615")]).unwrap();
    assert_eq!(
        (query.after_id, query.before_id),
        (Some(12), Some(u64::MAX))
    );
    let query = parse(
        "<x xmlns='jabber:x:data' type='submit'>\
         <field var='FORM_TYPE'><value>urn:xmpp:mam:2</value></field>\
         <field var='ids'><value>7</value><value>3</value><value>7</value></field></x>",
    )
    .unwrap();
    assert_eq!(query.ids, [3, 7]);
    for field in ["after-id", "before-id", "ids"] {
        for id in ["28482-98726-73623", "-1", "007", "18446744073709551616"] {
            assert_eq!(
                filtered(&[(field, id)]),
                Err(Condition::ItemNotFound),
                "{field} {id}"
            );
        }
    }
}

/// §4.1.4
#[test]
fn whether_to_include_groupchat_makes_no_difference() {
    for value in ["true", "false", "0"] {
        assert_eq!(
            filtered(&[("include-groupchat", value)]),
            Ok(Query::default())
        );
    }
}

/// §4.1.5, XEP-0004 §4
#[test]
fn what_is_not_understood_is_refused() {
    for (fields, condition) in [
        (
            [("{http://example.com/}free-text-search", "x")],
            Condition::FeatureNotImplemented,
        ),
        ([("with", "@")], Condition::NotAcceptable),
        ([("start", "yesterday")], Condition::NotAcceptable),
        ([("end", "1969-13-01T00:00:00Z")], Condition::NotAcceptable),
        ([("include-groupchat", "yes")], Condition::NotAcceptable),
    ] {
        assert_eq!(filtered(&fields), Err(condition), "{fields:?}");
    }
    for bad in [
        "<x xmlns='jabber:x:data' type='submit'/>",
        "<x xmlns='jabber:x:data' type='submit'>\
         <field var='FORM_TYPE'><value>urn:xmpp:mam:1</value></field></x>",
        "<x xmlns='jabber:x:data' type='cancel'/>",
        "<set xmlns='http://jabber.org/protocol/rsm'><max>ten</max></set>",
    ] {
        assert_eq!(parse(bad), Err(Condition::BadRequest), "{bad}");
    }
    for (kind, payload, condition) in [
        (
            "get",
            "<query xmlns='urn:xmpp:mam:2'/>",
            Condition::BadRequest,
        ),
        (
            "set",
            "<query xmlns='urn:xmpp:mam:1'/>",
            Condition::BadRequest,
        ),
        (
            "set",
            "<query xmlns='urn:xmpp:mam:2' node='n'/>",
            Condition::ItemNotFound,
        ),
    ] {
        assert_eq!(
            Query::parse(&iq(kind, payload)),
            Err(condition),
            "{payload}"
        );
    }
}

#[test]
fn queries_are_bounded() {
    let values = |count: usize| {
        let values: Vec<_> = (1..=count)
            .map(|id| format!("<value>{id}</value>"))
            .collect();
        values.concat()
    };
    let ids = |count| {
        parse(&format!(
            "<x xmlns='jabber:x:data' type='submit'>\
             <field var='FORM_TYPE'><value>urn:xmpp:mam:2</value></field>\
             <field var='ids'>{}</field></x>",
            values(count)
        ))
    };
    assert_eq!(ids(MAX_IDS).unwrap().ids.len(), MAX_IDS);
    assert_eq!(ids(MAX_IDS + 1), Err(Condition::PolicyViolation));
    let named = |length| {
        let id = "x".repeat(length);
        Query::parse(&iq(
            "set",
            &format!("<query xmlns='urn:xmpp:mam:2' queryid='{id}'/>"),
        ))
    };
    assert!(named(MAX_QUERY_ID).is_ok());
    assert_eq!(named(MAX_QUERY_ID + 1), Err(Condition::PolicyViolation));
}

/// §4.3
#[test]
fn pages_are_read() {
    let page = |children| paged(children).map(|query| (query.page, query.max));
    assert_eq!(page("<max>10</max>"), Ok((Page::First, Some(10))));
    assert_eq!(
        page("<max>10</max><after>9</after>"),
        Ok((Page::After(9), Some(10)))
    );
    assert_eq!(page("<before/>"), Ok((Page::Last, None)));
    assert_eq!(
        page("<before>9</before><max>0</max>"),
        Ok((Page::Before(9), Some(0)))
    );
    assert_eq!(page("<after>09af3</after>"), Err(Condition::ItemNotFound));
    assert_eq!(page("<after/>"), Err(Condition::ItemNotFound));
    assert_eq!(page("<before>x</before>"), Err(Condition::ItemNotFound));
    assert_eq!(
        page("<index>0</index>"),
        Err(Condition::FeatureNotImplemented)
    );
    assert_eq!(
        page("<after>1</after><before/>"),
        Err(Condition::BadRequest)
    );
    assert!(parse("<flip-page/>").unwrap().flip);
    assert!(!paged("<flip-page/>").unwrap().flip);
}

/// §4.1.5
#[test]
fn the_form_lists_what_queries_may_hold() {
    let form = form();
    let x = form.child("x", "jabber:x:data").unwrap();
    assert_eq!(x.attr("type"), Some("form"));
    let names: Vec<_> = x.children().filter_map(|field| field.attr("var")).collect();
    assert_eq!(
        names,
        [
            "FORM_TYPE",
            "with",
            "start",
            "end",
            "before-id",
            "after-id",
            "ids",
            "include-groupchat"
        ]
    );
    let ids = x.children().nth(6).unwrap();
    assert_eq!(
        ids.children().next().unwrap(),
        &element(
            "<validate xmlns='http://jabber.org/protocol/xdata-validate' datatype='xs:string'>\
             <open/></validate>"
        )
    );
    // Whatever is listed is understood.
    for name in &names[1..] {
        let value = match *name {
            "start" | "end" => "2010-08-07T00:00:00Z",
            "include-groupchat" => "true",
            "with" => "a@x",
            _ => "1",
        };
        assert!(filtered(&[(name, value)]).is_ok(), "{name}");
    }
}

/// §4.2
#[test]
fn a_result_holds_id_time_and_message() {
    let original = message("chat", "<body>Call me but love &amp; </body>").with_lang("en");
    let xml = original.to_xml();
    let archived = Archived {
        id: 28,
        at: at(1_278_803_305_250),
        stanza: &xml,
    };
    let account = BareJid::parse("bob@localhost").unwrap();
    let result = archived.result(Some("f'27"), &account).unwrap();
    assert_eq!(result.from, Some(account.clone().into()));
    assert_eq!(result.to, None);
    let inside = result.child("result", NS).unwrap();
    assert_eq!(
        (inside.attr("queryid"), inside.attr("id")),
        (Some("f'27"), Some("28"))
    );
    let forwarded = inside.child("forwarded", "urn:xmpp:forward:0").unwrap();
    let delay = forwarded.child("delay", "urn:xmpp:delay").unwrap();
    assert_eq!(delay.attr("stamp"), Some("2010-07-10T23:08:25.250Z"));
    let inside = forwarded.child("message", ns::CLIENT).unwrap();
    assert_eq!(Stanza::from_element(inside).unwrap(), original);

    let unnamed = archived.result(None, &account).unwrap();
    assert_eq!(unnamed.child("result", NS).unwrap().attr("queryid"), None);
    assert!(
        !is_archived(&unnamed),
        "an archive does not archive its answers"
    );
    let damaged = Archived {
        stanza: "<message",
        ..archived
    };
    assert_eq!(damaged.result(None, &account), None);
}

/// §4.3.2
#[test]
fn the_end_of_a_page_is_told() {
    let page = Fin {
        ends: Some((28, 99)),
        index: Some(0),
        count: Some(20),
        complete: false,
        stable: true,
    };
    assert_eq!(
        page.to_element().to_xml(""),
        "<fin xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'>\
         <first index='0'>28</first><last>99</last><count>20</count></set></fin>"
    );
    let last = Fin {
        ends: None,
        index: None,
        count: None,
        complete: true,
        stable: false,
    };
    assert_eq!(
        last.to_element().to_xml(""),
        "<fin xmlns='urn:xmpp:mam:2' complete='true' stable='false'>\
         <set xmlns='http://jabber.org/protocol/rsm'/></fin>"
    );
}

/// §5
#[test]
fn metadata_tells_the_ends_of_an_archive() {
    assert_eq!(
        metadata(None).to_xml(""),
        "<metadata xmlns='urn:xmpp:mam:2'/>"
    );
    assert_eq!(
        metadata(Some([(1, at(0)), (2, at(1_587_393_261_000))])).to_xml(""),
        "<metadata xmlns='urn:xmpp:mam:2'>\
         <start id='1' timestamp='1970-01-01T00:00:00.000Z'/>\
         <end id='2' timestamp='2020-04-20T14:34:21.000Z'/></metadata>"
    );
}

/// §6.1.1
#[test]
fn what_people_say_is_archived() {
    for content in [
        "<body>hi</body>",
        "<body>hi</body><active xmlns='http://jabber.org/protocol/chatstates'/>",
        "<received xmlns='urn:xmpp:receipts' id='1'/>",
        "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>",
        "<encrypted xmlns='eu.siacs.conversations.axolotl'/>",
        "<encrypted xmlns='urn:xmpp:omemo:2'/><encryption xmlns='urn:xmpp:eme:0'/>",
        "<reactions xmlns='urn:xmpp:reactions:0' id='1'/>",
        "<apply-to xmlns='urn:xmpp:fasten:0' id='1'/>",
        "<retract xmlns='urn:xmpp:message-retract:1' id='1'/>",
        "<replace xmlns='urn:xmpp:message-correct:0' id='1'/><body>ho</body>",
        "<x xmlns='jabber:x:conference' jid='room@muc.x'/>",
        "<x xmlns='http://jabber.org/protocol/muc#user'><invite to='bob@localhost'/></x>",
        "<propose xmlns='urn:xmpp:jingle-message:0' id='1'/><store xmlns='urn:xmpp:hints'/>",
        "<active xmlns='http://jabber.org/protocol/chatstates'/><store xmlns='urn:xmpp:hints'/>",
    ] {
        for kind in ["chat", "normal"] {
            let message = message(kind, content);
            assert!(is_archived(&message), "{kind} {content}");
            assert!(offline::is_stored(&message), "{kind} {content}");
        }
        for kind in ["groupchat", "headline", "error"] {
            assert!(!is_archived(&message(kind, content)), "{kind} {content}");
        }
    }
}

/// §3, §6.1.1, XEP-0334 §4
#[test]
fn what_is_of_the_moment_or_not_to_be_kept_is_not_archived() {
    for content in [
        "",
        "<composing xmlns='http://jabber.org/protocol/chatstates'/><thread>1</thread>",
        "<request xmlns='urn:xmpp:receipts'/>",
        "<body>hi</body><no-store xmlns='urn:xmpp:hints'/>",
        "<body>hi</body><no-permanent-store xmlns='urn:xmpp:hints'/>",
        "<body>hi</body><store xmlns='urn:xmpp:hints'/><no-store xmlns='urn:xmpp:hints'/>",
        "<event xmlns='http://jabber.org/protocol/pubsub#event'/>",
        "<result xmlns='urn:xmpp:mam:2' id='1'/>",
        "<received xmlns='urn:xmpp:carbons:2'/>",
        "<rtt xmlns='urn:xmpp:rtt:0'/>",
    ] {
        assert!(!is_archived(&message("chat", content)), "{content}");
    }
    let presence = Stanza::from_xml("<presence xmlns='jabber:client'/>").unwrap();
    assert!(!is_archived(&presence));
}

proptest! {
    #[test]
    fn any_query_is_read_or_refused(
        name in "with|start|end|before-id|after-id|ids|include-groupchat|[a-z]{1,6}",
        value in "[0-9]{0,20}|true|[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-9]{2}:00:00Z|[a-z@./]{0,12}|\\PC{0,10}",
        page in "after|before|max|index",
        uid in "[0-9]{0,20}|\\PC{0,6}",
    ) {
        let field = |name: &str, value: &str| {
            Element::new("field", "jabber:x:data")
                .with_attr("var", name)
                .with_child(Element::new("value", "jabber:x:data").with_text(value))
        };
        let form = Element::new("x", "jabber:x:data")
            .with_attr("type", "submit")
            .with_child(field("FORM_TYPE", NS))
            .with_child(field(&name, &value));
        let set = Element::new("set", xep0059_rsm::NS)
            .with_child(Element::new(&page, xep0059_rsm::NS).with_text(&uid));
        let query = Element::new("query", NS).with_child(form).with_child(set);
        let iq = Stanza::iq(IqType::Set, "1").with_child(query);
        let parsed = Query::parse(&iq);
        // As it comes from the wire.
        prop_assert_eq!(Query::parse(&Stanza::from_xml(&iq.to_xml()).unwrap()), parsed.clone());
        if let Ok(query) = parsed {
            prop_assert!(query.ids.is_sorted());
            if name == "with" && !value.is_empty() {
                prop_assert_eq!(query.with, Jid::parse(&value).ok());
            }
            match page.as_str() {
                "after" => prop_assert_eq!(query.page, Page::After(uid.parse().unwrap())),
                "before" if uid.is_empty() => prop_assert_eq!(query.page, Page::Last),
                "before" => prop_assert_eq!(query.page, Page::Before(uid.parse().unwrap())),
                _ => prop_assert_eq!(query.page, Page::First),
            }
        }
    }

    #[test]
    fn any_text_is_a_time_or_none(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z|\\PC{0,30}") {
        let _ = time(&text);
    }
}
