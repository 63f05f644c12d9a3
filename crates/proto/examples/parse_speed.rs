//! Measures what a stanza of 300 octets costs: framing, parsing, looking for a child, building the
//! tree, writing.
//!
//! `cargo run --release -p rookery-proto --example parse_speed`

use std::hint::black_box;
use std::time::Instant;

use rookery_proto::stream::{Frame, Framer, Framing, Limits, StreamScope};
use rookery_proto::{Element, Jid, Stanza, ns};

const MESSAGE: &str = "<message to='juliet@capulet.example/balcony' \
    from='romeo@montague.example/orchard' id='a1b2c3d4-0001' type='chat' xml:lang='en'>\
    <body>Art thou not Romeo, &amp; a Montague? Neither, fair saint.</body>\
    <active xmlns='http://jabber.org/protocol/chatstates'/>\
    <request xmlns='urn:xmpp:receipts'/></message>";
const BATCHES: u32 = 2_000;
const ROUNDS: u32 = 100;

fn main() {
    let scope = StreamScope::default();
    let parse = || Stanza::parse(MESSAGE.as_bytes(), &scope).expect("well-formed");
    let stanza = parse();
    println!("message of {} octets", MESSAGE.len());

    measure("Stanza::parse", || black_box(parse()));
    measure("Stanza::parse, has", || {
        black_box(parse().has("request", "urn:xmpp:receipts"))
    });
    measure("Stanza::parse, children", || {
        black_box(parse().children().len())
    });
    measure("Element::parse", || {
        black_box(Element::parse(MESSAGE, ns::CLIENT))
    });
    measure("clone", || black_box(stanza.clone()));
    measure("Jid::parse", || {
        black_box(Jid::parse("juliet@capulet.example/balcony"))
    });

    let mut out = Vec::with_capacity(1024);
    measure("write_to", || {
        out.clear();
        stanza.write_to(&mut out, Some("juliet@capulet.example"), Framing::Tcp);
        black_box(out.len())
    });

    let mut framer = Framer::new(Limits::default());
    let mut header = &b"<stream:stream>"[..];
    let opened = framer.next(&mut header);
    assert!(matches!(opened, Ok(Some(Frame::Open(_)))));
    measure("Framer::next, in one piece", || {
        let mut input = MESSAGE.as_bytes();
        matches!(framer.next(&mut input), Ok(Some(Frame::Stanza(_))))
    });
    measure("Framer::next, octet by octet", || {
        let mut found = false;
        for octet in MESSAGE.as_bytes().chunks(1) {
            let mut input = octet;
            found = matches!(framer.next(&mut input), Ok(Some(Frame::Stanza(_))));
        }
        found
    });
}

/// Prints the best of many short batches, which other work on the machine disturbs least.
fn measure<T>(name: &str, mut run: impl FnMut() -> T) {
    let mut best = f64::INFINITY;
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            black_box(run());
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(ROUNDS));
    }
    println!("{name:32} {:7.0} ns", best * 1e9);
}
