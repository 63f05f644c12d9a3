//! XEP-0227: `rookery export`, `rookery import` and `rookery user export`; files of other servers.
//!
//! `tests/migration` has what Prosody 0.12.3 and ejabberd 23.01 wrote; `tests/migration/README.md` says
//! how.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use rookery_tests::eventually;
use rookery_tests::prelude::*;
use rookery_tests::services::Postgres;

const PRIVATE: &str = "jabber:iq:private";
const MAM: &str = "urn:xmpp:mam:2";

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// What a command that must fail complains about.
#[track_caller]
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn write(server: &TestServer, name: &str, text: &str) -> String {
    let path = server.data_dir().join(name);
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("migration");
    path.join(name).to_str().expect("UTF-8").to_owned()
}

/// An exported document; ids of messages are replaced by their ranks among those of the account, as an
/// import gives new ones in the same order.
fn normal(document: &str) -> String {
    let mut out = String::new();
    for user in document.split_inclusive("</user>") {
        const MARKS: [&str; 2] = ["urn:xmpp:mam:2' id='", "urn:xmpp:sid:0' id='"];
        let mut ids: Vec<u64> = MARKS
            .iter()
            .flat_map(|mark| user.split(mark).skip(1))
            .filter_map(|rest| rest.split('\'').next()?.parse().ok())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let mut user = user.to_owned();
        for mark in MARKS {
            for (rank, id) in ids.iter().enumerate() {
                user = user.replace(&format!("{mark}{id}'"), &format!("{mark}rank {rank}'"));
            }
        }
        out.push_str(&user);
    }
    out
}

/// Ann, Bob and others with everything that an account can have, made by their clients.
async fn fill(server: &TestServer) {
    let mut ann = server.online("ann/desk").await;
    let mut bob = server.online("bob/phone").await;
    befriend(&mut ann, &mut bob).await;
    ann.query(set(roster_item(
        "bob@localhost",
        Some("Bob & <Co>"),
        &["a", "b"],
    )))
    .await;
    ann.query(set(roster_item("cat@localhost", None, &[])))
        .await;
    server.add_user("cat").await;
    ann.send(presence_to("subscribe", "cat@localhost")).await;
    let bookmarks = Element::new("storage", "storage:bookmarks").with_child(
        Element::new("conference", "storage:bookmarks").with_attr("jid", "room@muc.example"),
    );
    ann.query(set(Element::new("query", PRIVATE).with_child(bookmarks)))
        .await;
    let vcard = Element::new("vCard", "vcard-temp");
    ann.query(set(vcard.with_child(text(
        "FN",
        "vcard-temp",
        "Ann \u{1F511}",
    ))))
    .await;
    let item = |jid: &str| Element::new("item", BLOCKING).with_attr("jid", jid);
    let block = Element::new("block", BLOCKING);
    ann.query(set(block
        .with_child(item("bad@example.org"))
        .with_child(item("example.com"))))
        .await;
    for number in 0..3 {
        ann.send(chat_to("bob@localhost/phone", &format!("to bob {number}")))
            .await;
        bob.expect(chat_from("ann@localhost/desk", &format!("to bob {number}")))
            .await;
        bob.send(chat_to("ann@localhost/desk", &format!("to ann {number}")))
            .await;
        ann.expect(chat_from(
            "bob@localhost/phone",
            &format!("to ann {number}"),
        ))
        .await;
    }
    let never = Element::new("never", MAM).with_child(text("jid", MAM, "mallory@localhost"));
    let prefs = Element::new("prefs", MAM).with_attr("default", "always");
    bob.query(set(prefs.with_child(never))).await;
    bob.send(unavailable().with_child(text("status", CLIENT, "gone fishing")))
        .await;
    ann.expect(unavailable_from("bob@localhost/phone")).await;
    bob.expect(unavailable_from("bob@localhost/phone")).await;
    bob.close().await;
    for body in ["are you there?", "a < b\nand more"] {
        ann.send(chat_to("bob@localhost", body)).await;
    }
    // One that is in no archive.
    let hidden = chat_to("bob@localhost", "not archived");
    ann.send(hidden.with_child(Element::new("no-permanent-store", HINTS)))
        .await;
    ann.handled_for("bob@localhost").await;
    ann.close().await;
    // That a client got a message is noted a moment later; until then it counts as waiting.
    eventually("three messages to wait", async || {
        offline_messages(&done(&server.cli(&["export", "-"]).await)) == 3
    })
    .await;
}

/// How many messages wait for their recipients in an exported document.
fn offline_messages(document: &str) -> usize {
    let lists = document.split("<offline-messages").skip(1);
    let lists = lists.filter_map(|rest| rest.split("</offline-messages>").next());
    lists.map(|list| list.matches("<message ").count()).sum()
}

/// What Ann and Bob find when they log in.
async fn find(server: &TestServer) {
    for name in ["ann", "bob", "cat"] {
        server.knows_user(name);
    }
    let mut ann = server.bound("ann/desk").await;
    let mut roster = ann.roster().await;
    roster.sort_by_key(|item| item.attr("jid").map(ToOwned::to_owned));
    let attributes = |item: &Element| {
        let names = ["jid", "name", "subscription", "ask"];
        names.map(|name| item.attr(name).unwrap_or_default().to_owned())
    };
    assert_eq!(roster.len(), 2, "{roster:?}");
    assert_eq!(
        attributes(&roster[0]),
        ["bob@localhost", "Bob & <Co>", "both", ""]
    );
    let groups: Vec<_> = roster[0].children().map(Element::text).collect();
    assert_eq!(groups, ["a", "b"]);
    assert_eq!(
        attributes(&roster[1]),
        ["cat@localhost", "", "none", "subscribe"]
    );
    let bookmarks = Element::new("storage", "storage:bookmarks");
    let private = Element::new("query", PRIVATE).with_child(bookmarks);
    let private = ann.query(get(private)).await.expect("a result");
    assert!(private.to_xml("").contains("room@muc.example"));
    let vcard = get(Element::new("vCard", "vcard-temp"));
    let vcard = ann.query(vcard).await.expect("a result");
    assert!(vcard.to_xml("").contains("Ann \u{1F511}"));
    let blocked = get(Element::new("blocklist", BLOCKING));
    let blocked = ann.query(blocked).await.expect("a result");
    assert_eq!(blocked.children().count(), 2);
    let archive = ann.archive(&Query::new()).await;
    assert_eq!(archive.bodies().len(), 8, "{archive:?}");
    assert_eq!(archive.bodies()[6..], ["are you there?", "a < b\nand more"]);
    ann.close().await;

    let mut bob = server.bound("bob/phone").await;
    bob.become_available().await;
    for body in ["are you there?", "a < b\nand more", "not archived"] {
        bob.expect(chat_from("ann@localhost/desk", body).has("delay", DELAY))
            .await;
    }
    assert_eq!(bob.archive(&Query::new()).await.bodies().len(), 8);
    bob.close().await;
    let mut cat = server.bound("cat/home").await;
    cat.become_available().await;
    cat.expect(presence_from("subscribe", "ann@localhost"))
        .await;
    cat.close().await;
}

#[tokio::test]
async fn what_is_exported_is_imported_by_either_database_and_exported_again() {
    let from = TestServer::start().await;
    fill(&from).await;
    let first = done(&from.cli(&["export", "-"]).await);

    let postgres = Postgres::shared().await;
    let database = format!("storage.url={}", postgres.database().await);
    for settings in [&[][..], &[&*database]] {
        let to = TestServer::with(settings).await;
        let file = write(&to, "accounts.xml", &first);
        let report = done(&to.cli(&["import", &file]).await);
        for line in [
            "accounts: 3",
            "contacts: 3",
            "subscription requests: 1",
            "offline messages: 3",
            "archived messages: 16",
            "vCards: 1",
            "private elements: 1",
            "blocked addresses: 2",
            "archive preferences: 1",
        ] {
            assert!(report.lines().any(|l| l == line), "{line}: {report}");
        }
        assert!(!report.contains("not kept"), "{report}");
        let second = done(&to.cli(&["export", "-"]).await);
        assert_eq!(normal(&first), normal(&second), "{settings:?}");
        find(&to).await;
    }
}

/// From the file, from the standard input, and only one account.
#[tokio::test]
async fn an_export_may_be_of_some_accounts_and_overwrites_nothing() {
    let server = TestServer::start().await;
    for name in ["ann", "bob"] {
        server.add_user(name).await;
    }
    let file = server.data_dir().join("out.xml");
    let name = file.to_str().unwrap();
    done(
        &server
            .cli(&["export", name, "--account", "ann@localhost"])
            .await,
    );
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("<user name='ann'>") && !text.contains("bob"),
        "{text}"
    );
    let again = refused(&server.cli(&["export", name]).await);
    assert!(again.contains("exists already"), "{again}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    let unknown = ["export", "-", "--account", "nobody@localhost"];
    let unknown = refused(&server.cli(&unknown).await);
    assert!(unknown.contains("no account nobody@localhost"), "{unknown}");
    let nowhere = ["export", "/no/such/directory/out.xml"];
    refused(&server.cli(&nowhere).await);

    done(&server.cli(&["user", "delete", "ann@localhost"]).await);
    done(&server.cli_with_input(&["import", "-"], &text).await);
    server
        .login("ann")
        .await
        .bind(server.address("c2s"))
        .await
        .close()
        .await;
    let left: Vec<_> = std::fs::read_dir(server.data_dir())
        .unwrap()
        .filter(|f| {
            f.as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with("import")
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// All that there is of somebody, for that one.
#[tokio::test]
async fn an_account_is_exported_with_its_sessions_and_last_activity() {
    let server = TestServer::start().await;
    let mut ann = server.online("ann/desk").await;
    ann.send(unavailable().with_child(text("status", CLIENT, "gone fishing")))
        .await;
    ann.expect(unavailable_from("ann@localhost/desk")).await;
    let export = ["user", "export", "ann@localhost", "-"];
    rookery_tests::eventually("the last activity to be stored", || async {
        done(&server.cli(&export).await).contains(">gone fishing</last>")
    })
    .await;
    let exported = done(&server.cli(&export).await);
    assert!(exported.contains("jid='ann@localhost/desk'"), "{exported}");
    assert!(exported.contains("<session "), "{exported}");
    let unknown = server.cli(&["user", "export", "ben@localhost", "-"]).await;
    refused(&unknown);
    // It is a file like others.
    let file = write(&server, "ann.xml", &exported);
    ann.close().await;
    done(&server.cli(&["user", "delete", "ann@localhost"]).await);
    let report = done(&server.cli(&["import", &file]).await);
    assert!(report.contains("times of last activity: 1"), "{report}");
    assert!(report.contains("not kept: sessions: 1"), "{report}");
}

/// What both fixtures have.
async fn log_in_after_migration(server: &TestServer) {
    for (name, mechanism) in [
        ("ann", "SCRAM-SHA-1"),
        ("bob", "SCRAM-SHA-1-PLUS"),
        ("carol", "PLAIN"),
    ] {
        let login = Login::new(name, &format!("secret-{name}")).domain("example.org");
        let address = server.address("c2s");
        login
            .clone()
            .mechanism(mechanism)
            .bind(address)
            .await
            .close()
            .await;
        if mechanism == "PLAIN" {
            // Now that the password is known, there are keys for everything.
            login
                .mechanism("SCRAM-SHA-256")
                .bind(address)
                .await
                .close()
                .await;
        }
    }
    let login = Login::new("ann", "secret-ann").domain("example.org");
    let login = login.mechanism("SCRAM-SHA-1");
    let mut ann = login.bind(server.address("c2s")).await;
    let roster = ann.roster().await;
    assert_eq!(roster.len(), 1);
    assert_eq!(
        roster[0].to_xml(ROSTER),
        "<item jid='bob@example.org' name='Bob &amp; Co' subscription='both'>\
         <group>Friends</group><group>Work</group></item>"
    );
    let bookmarks = Element::new("storage", "storage:bookmarks");
    let private = Element::new("query", PRIVATE).with_child(bookmarks);
    let private = ann.query(get(private)).await.expect("a result");
    assert!(private.to_xml("").contains("room@conf.example.org"));
    ann.become_available().await;
    ann.expect(presence_from("subscribe", "carol@example.org"))
        .await;
    ann.close().await;
}

#[tokio::test]
async fn users_of_prosody_move() {
    let settings = [r#"server.domains=["localhost", "example.org"]"#];
    let server = TestServer::with(&settings).await;
    let report = done(&server.cli(&["import", &fixture("prosody")]).await);
    for line in [
        "accounts: 3",
        "contacts: 3",
        "subscription requests: 1",
        "archived messages: 6",
        "private elements: 1",
        "not kept: PEP items: 2",
        "not kept: PEP node configurations: 2",
    ] {
        assert!(report.lines().any(|l| l == line), "{line}: {report}");
    }
    assert!(
        report.contains("3 accounts have keys for SCRAM-SHA-1"),
        "{report}"
    );
    log_in_after_migration(&server).await;
    let login = Login::new("bob", "secret-bob").domain("example.org");
    let mut bob = login
        .mechanism("SCRAM-SHA-1")
        .bind(server.address("c2s"))
        .await;
    let archive = bob.archive(&Query::new()).await;
    assert_eq!(
        archive.bodies(),
        ["hello ann <1>", "hello bob", "are you there?"]
    );
    assert_eq!(archive.messages[0].stamp, "2026-11-26T13:39:56.000Z");
    bob.close().await;
}

#[tokio::test]
async fn users_of_ejabberd_move() {
    let settings = [r#"server.domains=["localhost", "example.org"]"#];
    let server = TestServer::with(&settings).await;
    let main = fixture("ejabberd/20261126-134018.xml");
    let report = done(&server.cli(&["import", &main]).await);
    for line in [
        "accounts: 3",
        "contacts: 3",
        "subscription requests: 1",
        "offline messages: 1",
        "vCards: 1",
        "private elements: 1",
        "blocked addresses: 2",
    ] {
        assert!(report.lines().any(|l| l == line), "{line}: {report}");
    }
    assert!(!report.contains("not kept"), "{report}");
    let login = Login::new("bob", "secret-bob").domain("example.org");
    let login = login.mechanism("SCRAM-SHA-1");
    let mut bob = login.bind(server.address("c2s")).await;
    bob.become_available().await;
    let waiting = bob
        .expect(chat_from("ann@example.org/desk", "are you there?"))
        .await;
    let delay = waiting.child("delay", DELAY).expect("XEP-0203");
    assert_eq!(delay.attr("stamp"), Some("2026-11-26T13:40:06Z"));
    bob.close().await;
    log_in_after_migration(&server).await;
    // The directory holds the same, in files that include each other.
    let again = server
        .cli(&["import", &fixture("ejabberd"), "--skip-existing"])
        .await;
    let report = done(&again);
    assert!(
        report.contains("accounts skipped, as they exist: 3"),
        "{report}"
    );
}

fn document(users: &str) -> String {
    format!(
        "<server-data xmlns='urn:xmpp:pie:0'><host jid='localhost'>\n{users}\n</host></server-data>"
    )
}

/// Nothing was written by imports that were refused.
async fn is_empty(server: &TestServer) {
    assert_eq!(done(&server.cli(&["user", "list"]).await), "");
    let unfinished = ["user", "list", "--domain", "import.invalid"];
    assert_eq!(done(&server.cli(&unfinished).await), "");
}

#[tokio::test]
async fn a_file_that_is_wrong_changes_nothing_and_the_place_is_told() {
    let server = TestServer::start().await;
    let good = "<user name='good' password='x y z'/>";
    for (name, users, expected) in [
        (
            "jid",
            "<user name='a@b' password='x'/>",
            "line 3, column 1: \"a@b\" is no name",
        ),
        (
            "twice",
            good,
            "line 3, column 1 (account good@localhost): the account comes twice",
        ),
        (
            "contact",
            "<user name='ann'>\n<query xmlns='jabber:iq:roster'><item jid='@'/></query></user>",
            "line 4, column 1 (account ann@localhost): \"@\" in <item/>",
        ),
        (
            "keys",
            "<user name='ann'><scram-credentials xmlns='urn:xmpp:pie:0#scram' \
             mechanism='SCRAM-SHA-1'/></user>",
            "keys for SCRAM-SHA-1 without <iter-count/>",
        ),
        (
            "password",
            "<user name='ann' password=''/>",
            "the password is empty",
        ),
        (
            "archive",
            "<user name='ann'><archive xmlns='urn:xmpp:pie:0#mam'>\
             <result xmlns='urn:xmpp:mam:2'/></archive></user>",
            "an archived message without message or time",
        ),
        (
            "entity",
            "<user name='ann'><vCard xmlns='vcard-temp'>&lol;</vCard></user>",
            "line 3, column 18 (account ann@localhost): restricted XML: entity reference",
        ),
        (
            "end",
            "<user name='ann'></host>",
            "(account ann@localhost): not well-formed: end tag",
        ),
        (
            "text",
            "<user name='ann'>text</user>",
            "text where only elements may stand",
        ),
    ] {
        let text = document(&format!("{good}\n{users}"));
        let file = write(&server, &format!("{name}.xml"), &text);
        let complaint = refused(&server.cli(&["import", &file]).await);
        assert!(complaint.contains(expected), "{name}: {complaint}");
        assert!(
            complaint.contains(&format!("{name}.xml, line ")),
            "{complaint}"
        );
    }
    is_empty(&server).await;
}

#[tokio::test]
async fn what_is_no_such_file_changes_nothing() {
    let server = TestServer::start().await;
    for (name, text, expected) in [
        (
            "laughs",
            "<?xml version='1.0'?>\n<!DOCTYPE server-data [<!ENTITY a 'ha'>\n\
             <!ENTITY b '&a;&a;&a;&a;'>]>\n<server-data xmlns='urn:xmpp:pie:0'>&b;</server-data>",
            "line 2, column 1: restricted XML: document type declaration",
        ),
        (
            "namespace",
            "<server-data xmlns='urn:xmpp:pie:1'/>",
            "has to be <server-data",
        ),
        (
            "element",
            "<user xmlns='urn:xmpp:pie:0' name='a'/>",
            "has to be <server-data",
        ),
        (
            "truncated",
            "<server-data xmlns='urn:xmpp:pie:0'><host jid='localhost'><us",
            "ends",
        ),
        ("nothing", "", "no element"),
        (
            "host",
            "<server-data xmlns='urn:xmpp:pie:0'><host jid='a b'/></server-data>",
            "\"a b\" is no domain",
        ),
        (
            "unserved",
            "<server-data xmlns='urn:xmpp:pie:0'><host jid='example.org'><user name='ann'/></host>\
             </server-data>",
            "example.org is not a served domain; server.domains has localhost",
        ),
    ] {
        let file = write(&server, &format!("{name}.xml"), text);
        let complaint = refused(&server.cli(&["import", &file]).await);
        assert!(complaint.contains(expected), "{name}: {complaint}");
    }
    refused(&server.cli(&["import", "/no/such/file.xml"]).await);
    let empty = tempfile_in(&server, "empty");
    refused(&server.cli(&["import", empty.to_str().unwrap()]).await);
    is_empty(&server).await;
}

fn tempfile_in(server: &TestServer, name: &str) -> PathBuf {
    let path = server.data_dir().join(name);
    std::fs::create_dir(&path).expect("a directory");
    path
}

/// XEP-0227 §5, and no further.
#[tokio::test]
async fn files_include_what_lies_below_them() {
    let server = TestServer::start().await;
    let outside = tempfile_in(&server, "outside");
    std::fs::write(
        outside.join("ann.xml"),
        "<user xmlns='urn:xmpp:pie:0' name='ann' password='x y z'/>",
    )
    .unwrap();
    let base = tempfile_in(&server, "base");
    std::fs::create_dir(base.join("sub dir")).unwrap();
    std::fs::copy(outside.join("ann.xml"), base.join("sub dir/a@b.xml")).unwrap();
    std::os::unix::fs::symlink(&outside, base.join("link")).unwrap();
    let absolute = outside.join("ann.xml");
    let absolute = absolute.to_str().unwrap();
    let file_url = format!("file://{absolute}");
    for href in [
        "../outside/ann.xml",
        "./../outside/ann.xml",
        "%2e%2e/outside/ann.xml",
        "link/ann.xml",
        "sub%20dir",
        "missing.xml",
        "",
        "http://example.org/ann.xml",
        "%zz",
        absolute,
        &file_url,
        // Itself: its outermost element is none that may stand there.
        "main.xml",
    ] {
        let text = document(&format!(
            "<include xmlns='http://www.w3.org/2001/XInclude' href='{href}'/>"
        ));
        std::fs::write(base.join("main.xml"), text).unwrap();
        let main = base.join("main.xml");
        let output = server.cli(&["import", main.to_str().unwrap()]).await;
        if href == "main.xml" {
            let report = done(&output);
            assert!(report.contains("not kept: <server-data"), "{report}");
            continue;
        }
        let complaint = refused(&output);
        assert!(complaint.contains("is refused"), "{href}: {complaint}");
        assert!(
            complaint.contains("main.xml, line 2, column 1"),
            "{complaint}"
        );
    }
    is_empty(&server).await;
    // In the user's own data it is data.
    let text = document(
        "<include xmlns='http://www.w3.org/2001/XInclude' href='sub%20dir/a%40b.xml'/>\
         <user name='ben' password='x y z'><query xmlns='jabber:iq:private'>\
         <include xmlns='http://www.w3.org/2001/XInclude' href='../outside/ann.xml'/></query></user>",
    );
    std::fs::write(base.join("main.xml"), text).unwrap();
    let main = base.join("main.xml");
    let report = done(&server.cli(&["import", main.to_str().unwrap()]).await);
    assert!(
        report.contains("accounts: 2\nprivate elements: 1"),
        "{report}"
    );
    Login::new("ann", "x y z")
        .bind(server.address("c2s"))
        .await
        .close()
        .await;
}

#[tokio::test]
async fn accounts_that_exist_are_refused_skipped_or_replaced() {
    let server = TestServer::start().await;
    let mut ann = server.online("ann/desk").await;
    ann.query(set(roster_item("old@localhost", None, &[])))
        .await;
    let file = document(
        "<user name='ann' password='new secret'><query xmlns='jabber:iq:roster'>\
         <item jid='new@localhost'/></query></user><user name='bob' password='secret of bob'/>",
    );
    let file = write(&server, "accounts.xml", &file);
    let complaint = refused(&server.cli(&["import", &file]).await);
    assert!(
        complaint.contains("(account ann@localhost): the account exists already"),
        "{complaint}"
    );
    assert_eq!(
        done(&server.cli(&["user", "list"]).await),
        "ann@localhost\n"
    );

    let report = done(
        &server
            .cli(&["import", &file, "--check", "--skip-existing"])
            .await,
    );
    assert!(report.contains("accounts: 1"), "{report}");
    assert_eq!(
        done(&server.cli(&["user", "list"]).await),
        "ann@localhost\n"
    );
    let report = done(&server.cli(&["import", &file, "--skip-existing"]).await);
    assert!(
        report.contains("accounts: 1\naccounts skipped, as they exist: 1"),
        "{report}"
    );
    assert_eq!(ann.roster().await.len(), 1);

    // Who was logged in is so no longer.
    let report = done(&server.cli(&["import", &file, "--replace"]).await);
    assert!(report.contains("accounts replaced: 2"), "{report}");
    ann.expect_end_in("not-authorized").await;
    let mut ann = Login::new("ann", "new secret")
        .bind(server.address("c2s"))
        .await;
    let roster = ann.roster().await;
    assert_eq!(roster.len(), 1);
    assert_eq!(roster[0].attr("jid"), Some("new@localhost"));
    ann.close().await;
}

/// A killed import leaves an account that nobody can log in to; the next one removes it.
#[tokio::test]
async fn what_an_interrupted_import_left_is_removed() {
    let server = TestServer::start().await;
    let left = "0123456789abcdef@import.invalid";
    let domains = r#"server.domains=["import.invalid"]"#;
    let add = ["user", "add", left, "--password-stdin", "--set", domains];
    done(&server.cli_with_input(&add, "x y z").await);
    let file = document("<user name='ann' password='x y z'/>");
    let file = write(&server, "accounts.xml", &file);
    done(&server.cli(&["import", &file]).await);
    let exists = server.cli(&["user", "exists", left]).await;
    assert_eq!(exists.status.code(), Some(1), "{exists:?}");
    assert_eq!(
        done(&server.cli(&["user", "list"]).await),
        "ann@localhost\n"
    );
}

#[tokio::test]
async fn what_is_wrong_is_left_out_if_asked_for() {
    let server = TestServer::start().await;
    server.add_user("dan").await;
    let file = document(
        "<user name='a@b'/>\n<user name='ann' password='x y z'><query xmlns='jabber:iq:roster'>\
         <item jid='@'/></query><vCard xmlns='vcard-temp'/></user>\n<user name='ann'/>\n\
         <user name='dan'/><x xmlns='y'/><user name='eve'/>",
    );
    let file = write(&server, "accounts.xml", &file);
    let complaint = refused(&server.cli(&["import", &file]).await);
    assert_eq!(
        complaint.matches("accounts.xml, line").count(),
        4,
        "{complaint}"
    );
    let report = done(&server.cli(&["import", &file, "--continue"]).await);
    assert_eq!(
        report.lines().take(4).collect::<Vec<_>>(),
        [
            "accounts: 2",
            "vCards: 1",
            "accounts refused: 3",
            "not kept: <x xmlns='y'/>: 1"
        ],
        "{report}"
    );
    assert!(report.contains("1 accounts have no password"), "{report}");
    let list = done(&server.cli(&["user", "list"]).await);
    assert_eq!(list, "ann@localhost\ndan@localhost\neve@localhost\n");
    Login::new("ann", "x y z")
        .bind(server.address("c2s"))
        .await
        .close()
        .await;
}
