//! The pages for people: README and docs.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// What stands outside of code, line by line.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> HashSet<String> {
    let mut seen = HashMap::new();
    let headings = prose(text).filter_map(|line| {
        let heading = line.trim_start_matches('#');
        (heading.len() < line.len()).then(|| heading.strip_prefix(' '))?
    });
    let anchors = headings.map(|heading| {
        let kept = heading.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            _ if c.is_alphanumeric() => Some(c),
            _ => None,
        });
        let anchor: String = kept.flat_map(char::to_lowercase).collect();
        let times: &mut usize = seen.entry(anchor.clone()).or_default();
        *times += 1;
        match *times {
            1 => anchor,
            times => format!("{anchor}-{}", times - 1),
        }
    });
    anchors.collect()
}

/// Where the links of a page lead: `[text](target)` and `src="target"`.
fn targets(text: &str) -> Vec<&str> {
    let ends = [("](", ')'), ("src=\"", '"')];
    let lines = prose(text);
    lines
        .flat_map(|line| {
            ends.into_iter().flat_map(move |(begin, end)| {
                let rest = line.split(begin).skip(1);
                rest.filter_map(move |rest| Some(rest.split_once(end)?.0))
            })
        })
        .collect()
}

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = root.canonicalize().expect("the repository");
    let mut pages = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    for directory in ["docs", "docs/adr"] {
        let entries = std::fs::read_dir(root.join(directory)).expect("a directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        pages.extend(paths.filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    pages
}

#[test]
fn all_links_between_pages_lead_somewhere() {
    let mut broken = Vec::new();
    let mut checked = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).expect("a page");
        for target in targets(&text) {
            if target.contains("://") {
                continue;
            }
            checked += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = match path {
                "" => page.clone(),
                path => page.parent().expect("a directory").join(path),
            };
            let is_there = if anchor.is_empty() {
                to.exists()
            } else {
                std::fs::read_to_string(&to).is_ok_and(|text| anchors(&text).contains(anchor))
            };
            if !is_there {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
    assert!(checked > 50, "{checked} links were found");
}

#[test]
fn the_readme_leads_to_every_page() {
    let pages = pages();
    let readme = std::fs::read_to_string(&pages[0]).expect("the README");
    let linked: HashSet<_> = targets(&readme).into_iter().collect();
    let root = pages[0].parent().expect("a directory");
    for page in &pages[1..] {
        let path = page.strip_prefix(root).expect("inside");
        let path = path.to_str().expect("UTF-8");
        // The directory of decisions is linked as one.
        let is_linked = linked.contains(path) || path.starts_with("docs/adr/");
        assert!(is_linked, "{path}");
    }
}

#[test]
fn anchors_are_those_of_github() {
    let page = "# A `b` c: d's (e)\n```sh\n# no\n```\n## X/Y_z\n## X/Y_z\n";
    let made = anchors(page);
    let expected = ["a-b-c-ds-e", "xy_z", "xy_z-1"].map(str::to_owned);
    assert_eq!(made, HashSet::from(expected));
    assert_eq!(
        targets("[a](b#c), <img src=\"d\">\n```\n[x](y)\n```"),
        ["b#c", "d"]
    );
}
