//! The list of features, the header of each file and the README say the same.

use std::path::Path;

use rookery_features::ALL;
use rookery_features::feature::{
    Feature, Specification, Status, TABLE_BEGIN, TABLE_END, announced, readme_table,
};

/// Files whose rules no actor follows yet: what they describe is neither announced nor listed.
const NOT_YET_IN_USE: [u16; 1] = [352];

/// The features that are XEPs, with number.
fn xeps() -> impl Iterator<Item = (u16, &'static Feature)> {
    ALL.iter()
        .filter_map(|feature| match feature.specification {
            Specification::Xep(number) => Some((number, feature)),
            Specification::Rfc(_) => None,
        })
}

/// The files of XEPs in use, `xepNNNN_name.rs`: the number and the text.
fn xep_files() -> Vec<(u16, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let number = |path: &Path| {
        path.file_stem()?
            .to_str()
            .filter(|name| !name.ends_with("_tests"))?
            .strip_prefix("xep")?
            .get(..4)?
            .parse::<u16>()
            .ok()
    };
    let entries = std::fs::read_dir(directory).expect("the sources are there");
    entries
        .map(|entry| entry.expect("the directory can be read").path())
        .filter_map(|path| Some((number(&path)?, path)))
        .filter(|(number, _)| !NOT_YET_IN_USE.contains(number))
        .map(|(number, path)| {
            (
                number,
                std::fs::read_to_string(path).expect("the file can be read"),
            )
        })
        .collect()
}

#[test]
fn the_header_of_each_file_states_number_title_and_version() {
    assert!(xep_files().len() >= 20);
    for (number, text) in xep_files() {
        let (_, feature) = xeps()
            .find(|(listed, _)| *listed == number)
            .unwrap_or_else(|| panic!("XEP-{number:04} is not in ALL"));
        let expected = format!(
            "//! {} {}, version {}.",
            feature.name(),
            feature.title,
            feature.version
        );
        assert_eq!(text.lines().next(), Some(expected.as_str()));
    }
}

#[test]
fn what_is_partial_says_what_is_missing() {
    for (number, text) in xep_files() {
        let (_, feature) = xeps().find(|(listed, _)| *listed == number).unwrap();
        if feature.status == Status::Partial {
            assert!(text.contains("//! Not supported:"), "XEP-{number:04}");
        }
    }
    for feature in ALL {
        assert_eq!(
            feature.status == Status::Partial,
            !feature.gaps.is_empty(),
            "{feature:?}"
        );
        assert!(!feature.title.is_empty(), "{feature:?}");
    }
}

#[test]
fn features_are_listed_once_and_in_order() {
    assert!(
        ALL.windows(2)
            .all(|pair| pair[0].specification < pair[1].specification)
    );
}

/// XEP-0115 §5.4: repeated features make a reply ill-formed.
#[test]
fn no_namespace_belongs_to_two_features() {
    let listed: usize = ALL.iter().map(|feature| feature.namespaces.len()).sum();
    assert_eq!(announced(ALL).len(), listed);
}

#[test]
fn the_readme_holds_the_feature_table() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, rest) = readme
        .split_once(TABLE_BEGIN)
        .expect("the README has a feature table");
    let (table, _) = rest.split_once(TABLE_END).expect("the feature table ends");
    assert_eq!(
        table.trim(),
        readme_table(ALL).trim(),
        "put in what `cargo run -p rookery-features --example readme_table` prints"
    );
}
