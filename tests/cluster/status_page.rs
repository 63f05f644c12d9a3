//! The status page, in a browser.

use std::path::Path;

use rookery_tests::Browser;
use rookery_tests::api::{self, TOKEN};
use rookery_tests::prelude::*;
use serde_json::json;

/// Texts whose contrast to their ground is less than WCAG 2.1 §1.4.3 asks for.
const PALE: &str = r"(() => {
    const parts = (color) => color.match(/[\d.]+/g).map(Number);
    const luminance = (color) => {
        const [r, g, b] = parts(color).slice(0, 3).map((part) => {
            const share = part / 255;
            return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = getComputedStyle(at).backgroundColor;
            if ((parts(color)[3] ?? 1) > 0) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const hasText = (element) => [...element.childNodes].some((node) =>
        node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    const shown = [...document.body.querySelectorAll('*')].filter((element) =>
        element.checkVisibility() && hasText(element));
    return shown.filter((element) => {
        const [one, other] = [getComputedStyle(element).color, ground(element)].map(luminance);
        return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05) < 4.5;
    }).map((element) => element.outerHTML);
})()";

async fn opened(server: &TestServer) -> Browser {
    let mut browser = Browser::start().await;
    browser.resize(390, 844).await;
    let address = server.address("admin");
    browser.open(&format!("http://{address}/")).await;
    browser
        .until("document.activeElement?.id === 'token'")
        .await;
    browser
}

async fn enter(browser: &mut Browser, token: &str) {
    let typed = format!("document.getElementById('token').value = '{token}'");
    browser.value(&typed).await;
    let submit = "document.querySelector('form button').click()";
    browser.value(submit).await;
}

/// What the page says as a whole.
fn says(text: &str) -> String {
    format!("document.body.innerText.includes({})", json!(text))
}

/// A column of a node, of those in the order of the page.
fn cell(node: usize, label: &str) -> String {
    format!(
        "document.querySelectorAll('#nodes-body tr')[{node}].querySelector('[data-label=\"{label}\"]').innerText"
    )
}

/// For people to look at, in the target directory.
async fn keep(browser: &mut Browser, name: &str) {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let image = browser.screenshot().await;
    std::fs::write(&file, image).expect("the image is kept");
}

#[tokio::test]
async fn all_nodes_are_shown_on_a_phone_and_on_a_desk() {
    let mut cluster = TestCluster::with(2, &[&api::setting(), "cluster.lease=30s"]).await;
    let mut ann = cluster.online(0, "ann/phone").await;
    let mut ben = cluster.online(1, "ben/desk").await;
    let mut browser = opened(cluster.node(0)).await;
    enter(&mut browser, TOKEN).await;
    browser.until(&says("All 2 nodes take clients.")).await;
    for node in 0..2 {
        let sessions = format!("{} === '1'", cell(node, "Sessions"));
        browser.until(&sessions).await;
        let version = format!(
            "{} === '{}'",
            cell(node, "Version"),
            env!("CARGO_PKG_VERSION")
        );
        browser.until(&version).await;
    }
    browser.until(&says("joined the cluster")).await;

    // Two answers of each node make a rate.
    let has_rate = format!("/^[0-9]/.test({})", cell(0, "Messages/s in, out"));
    browser.until(&has_rate).await;
    for _ in 0..20 {
        ann.send(chat_to("ben@localhost", "hi")).await;
        ben.expect(chat_from("ann@localhost/phone", "hi")).await;
    }
    let sent = format!(
        "/^[0-9.]*[1-9].*, 0$/.test({})",
        cell(0, "Messages/s in, out")
    );
    browser.until(&sent).await;
    let received = format!("/^0, .*[1-9]/.test({})", cell(1, "Messages/s in, out"));
    browser.until(&received).await;
    for (node, label) in [(0, "Commit p50, p99"), (1, "Delivery p50, p99")] {
        let takes = format!(
            "/^[0-9.]+ [µm]?s, [0-9.]+ [µm]?s$/.test({})",
            cell(node, label)
        );
        browser.until(&takes).await;
    }

    for (width, height) in [(390, 844), (1280, 800)] {
        for scheme in ["light", "dark"] {
            browser.resize(width, height).await;
            browser.prefer(scheme).await;
            keep(&mut browser, &format!("status-{width}-{scheme}.png")).await;
            let fits = "document.documentElement.scrollWidth <= innerWidth";
            assert_eq!(browser.value(fits).await, true, "{width}");
            assert_eq!(browser.value(PALE).await, json!([]), "{scheme}");
        }
    }
    assert_eq!(browser.take_complaints(), Vec::<String>::new());

    // One of them dies.
    browser.resize(390, 844).await;
    browser.prefer("light").await;
    cluster.node_mut(1).kill();
    browser.until(&says("1 of 2 nodes take new clients.")).await;
    keep(&mut browser, "status-390-lost.png").await;
    cluster.node_mut(0).kill();
    browser.until(&says("cannot be reached")).await;
    // What was seen last is still there.
    browser.until(&says("What is below is from")).await;
}

#[tokio::test]
async fn a_wrong_token_is_said_in_words_and_forgotten() {
    let server = TestServer::with(&[&api::setting()]).await;
    let mut browser = opened(&server).await;
    assert_eq!(browser.take_complaints(), Vec::<String>::new());
    enter(&mut browser, "a wrong token of somebody").await;
    browser.until(&says("This token is wrong.")).await;
    assert_eq!(browser.value("sessionStorage.length").await, 0);
    assert_eq!(browser.value(PALE).await, json!([]));

    enter(&mut browser, TOKEN).await;
    browser.until(&says("The node takes clients.")).await;
    // The refusal was an act of somebody's.
    browser.until(&says("api-token by api: refused")).await;
    let elsewhere = browser.value("localStorage.length + document.cookie.length");
    assert_eq!(elsewhere.await, 0);
    browser
        .value("document.getElementById('leave').click()")
        .await;
    browser
        .until("!document.getElementById('enter').hidden")
        .await;
    assert_eq!(browser.value("sessionStorage.length").await, 0);
}

#[tokio::test]
async fn a_node_that_drains_is_shown_so() {
    let server = TestServer::with(&[&api::setting()]).await;
    let mut browser = opened(&server).await;
    enter(&mut browser, TOKEN).await;
    browser.until(&says("The node takes clients.")).await;
    let drained = server.cli(&["drain", "--timeout", "1s"]).await;
    assert!(drained.status.success(), "{drained:?}");
    let verdict = "The node does not take new clients.";
    browser.until(&says(verdict)).await;
    browser.until(&says("this server: draining")).await;
    // In its row and among the events as well.
    browser
        .until(&format!("{}.startsWith('! draining')", cell(0, "State")))
        .await;
    browser.until(&says("drain by cli")).await;
}

#[tokio::test]
async fn without_a_token_the_page_says_how_to_set_one() {
    let server = TestServer::start().await;
    let mut browser = opened(&server).await;
    enter(&mut browser, TOKEN).await;
    browser
        .until(&says("set admin.token or admin.token_file"))
        .await;
}

/// Content Security Policy Level 3: nothing inline, nothing from elsewhere, in no frame.
#[tokio::test]
async fn the_page_is_strict() {
    let server = TestServer::start().await;
    for file in ["/", "/status.css", "/status.js", "/status.svg"] {
        let answer = server.admin(file).await;
        assert_eq!(answer.status, 200, "{file}");
        let head = answer.head.to_lowercase();
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; ",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(header), "{file}: {header}: {head}");
        }
    }
    assert_eq!(server.admin("/status.html").await.status, 404);
}
