//! Where settings come from: built-in defaults < TOML file < environment < `--set`.
//!
//! The layers are merged by the `config` crate, which remembers for each value where it came from.
//! All problems are collected, so that one start shows all of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Environment, File, FileFormat, ValueKind};

use super::Setting;
use super::service_url::mask_password;
use super::value::Value;

/// What names an environment variable as a setting: `ROOKERY__SECTION__KEY`.
const ENVIRONMENT_PREFIX: &str = "ROOKERY";

/// Everything that may override the defaults.
#[derive(Debug, Default)]
pub(crate) struct Sources<'a> {
    /// A TOML file.
    pub(crate) file: Option<&'a Path>,
    /// Environment variables; `None` for those of the process.
    pub(crate) environment: Option<HashMap<String, String>>,
    /// `section.key` and value of each `--set`, in the order given.
    pub(crate) overrides: &'a [(String, String)],
}

/// The sources of a running server, to be read again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// A TOML file.
    pub(crate) file: Option<PathBuf>,
    /// As in [`Sources`].
    pub(crate) overrides: Vec<(String, String)>,
}

impl Origin {
    /// What is read. The environment is that of the process.
    pub(crate) fn sources(&self) -> Sources<'_> {
        Sources {
            file: self.file.as_deref(),
            environment: None,
            overrides: &self.overrides,
        }
    }
}

/// The merged layers.
#[derive(Debug)]
pub(super) struct Layers {
    values: BTreeMap<String, config::Value>,
}

/// What is wrong with the configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// A file that cannot be read or is not TOML.
    #[error("cannot read the configuration file {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What the operating system or the TOML parser says.
        reason: String,
    },
    /// A key that does not exist.
    #[error("unknown key {key} (from {origin}); allowed: {allowed}")]
    Unknown {
        /// The key, as `section.key`.
        key: String,
        /// Where it was set.
        origin: String,
        /// The keys that exist there.
        allowed: String,
    },
    /// A value that its key does not allow.
    #[error("{key} = {value} (from {origin}) is not allowed; allowed: {allowed}")]
    Value {
        /// The key, as `section.key`.
        key: String,
        /// The value, without passwords.
        value: String,
        /// Where it was set.
        origin: String,
        /// What would be accepted.
        allowed: String,
    },
    /// Values that are fine alone but not together.
    #[error("{keys}: {reason}")]
    Together {
        /// The keys.
        keys: &'static str,
        /// Why not, and what to do.
        reason: String,
    },
}

impl Layers {
    /// Merges the sources and reports keys that do not exist.
    pub(super) fn merge(sources: &Sources<'_>, problems: &mut Vec<Problem>) -> Self {
        let mut layers = Self {
            values: BTreeMap::new(),
        };
        match build(sources) {
            Ok(merged) => flatten("", merged, &mut layers.values),
            Err(problem) => problems.push(problem),
        }
        layers.values.retain(|key, value| {
            let known = super::settings()
                .iter()
                .any(|setting| setting.path() == *key);
            if !known {
                problems.push(unknown(key, value));
            }
            known
        });
        layers
    }

    /// The value of a setting; a value that is not allowed is reported and `None`.
    pub(super) fn read<T: Value>(&self, key: &str, problems: &mut Vec<Problem>) -> Option<T> {
        // A key without a value is the consequence of a problem with a whole source.
        let value = self.values.get(key)?;
        let read = T::read(&value.kind);
        if read.is_none() {
            problems.push(Problem::Value {
                key: key.into(),
                value: mask_password(&shown(&value.kind)),
                origin: origin(key, value),
                allowed: T::allowed(),
            });
        }
        read
    }
}

fn build(sources: &Sources<'_>) -> Result<config::Map<String, config::Value>, Problem> {
    let mut builder = config::Config::builder();
    for setting in super::settings() {
        builder = builder
            .set_default(setting.path(), default_value(&setting))
            .expect("the keys of settings are plain names");
    }
    let mut file_name = String::from("the configuration");
    if let Some(path) = sources.file {
        file_name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Problem::File {
            path: file_name.clone(),
            reason: error.to_string(),
        })?;
        // Read here rather than by `config`, which does not name a file that is missing.
        for (key, value) in parse_toml(&text).map_err(|reason| Problem::File {
            path: file_name.clone(),
            reason,
        })? {
            builder = builder.add_source(Part {
                key,
                value: with_origin(value, &file_name),
            });
        }
    }
    builder = builder.add_source(
        Environment::with_prefix(ENVIRONMENT_PREFIX)
            .prefix_separator("__")
            .separator("__")
            .source(sources.environment.clone()),
    );
    for (key, value) in sources.overrides {
        let origin = "--set".to_owned();
        let value = config::Value::new(Some(&origin), ValueKind::String(value.clone()));
        builder = builder
            .set_override(key, value)
            .map_err(|_| Problem::Unknown {
                key: key.clone(),
                origin,
                allowed: sections(),
            })?;
    }
    let merged = builder.build().map_err(|error| Problem::File {
        path: file_name,
        reason: error.to_string(),
    })?;
    match merged.cache.kind {
        ValueKind::Table(table) => Ok(table),
        _ => Ok(config::Map::new()),
    }
}

/// A top-level table of the file.
#[derive(Debug, Clone)]
struct Part {
    key: String,
    value: config::Value,
}

impl config::Source for Part {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, config::Value>, config::ConfigError> {
        Ok([(self.key.clone(), self.value.clone())].into())
    }
}

fn with_origin(value: config::Value, origin: &String) -> config::Value {
    let kind = match value.kind {
        ValueKind::Table(table) => ValueKind::Table(
            table
                .into_iter()
                .map(|(key, value)| (key, with_origin(value, origin)))
                .collect(),
        ),
        kind => kind,
    };
    config::Value::new(Some(origin), kind)
}

/// Reads a TOML document; the error says where it is wrong.
pub(super) fn parse_toml(text: &str) -> Result<config::Map<String, config::Value>, String> {
    use config::Source;
    File::from_str(text, FileFormat::Toml)
        .collect()
        .map_err(|error| error.to_string())
}

fn default_value(setting: &Setting) -> config::Value {
    let document = format!("default = {}", setting.default_toml());
    let kind = parse_toml(&document)
        .ok()
        .and_then(|mut table| table.remove("default"))
        .expect("defaults are TOML; a test reads each")
        .kind;
    config::Value::new(Some(&"the defaults".to_owned()), kind)
}

/// Turns nested tables into `section.key`.
fn flatten(
    prefix: &str,
    table: config::Map<String, config::Value>,
    out: &mut BTreeMap<String, config::Value>,
) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}.{name}")
        };
        match value.kind {
            ValueKind::Table(inner) if !inner.is_empty() => flatten(&key, inner, out),
            // A section without keys says nothing; anything else without keys is a wrong value.
            ValueKind::Table(_) if prefix.is_empty() => {}
            _ => {
                out.insert(key, value);
            }
        }
    }
}

fn unknown(key: &str, value: &config::Value) -> Problem {
    let section = key.split_once('.').map_or(key, |(section, _)| section);
    let keys: Vec<_> = super::settings()
        .iter()
        .filter(|setting| setting.section == section)
        .map(Setting::path)
        .collect();
    let allowed = if keys.is_empty() {
        sections()
    } else {
        keys.join(", ")
    };
    Problem::Unknown {
        key: key.into(),
        origin: origin(key, value),
        allowed,
    }
}

fn sections() -> String {
    let mut sections: Vec<_> = super::settings()
        .iter()
        .map(|setting| setting.section)
        .collect();
    sections.dedup();
    format!("keys in the sections {}", sections.join(", "))
}

/// Where a value was set, as people wrote it there.
fn origin(key: &str, value: &config::Value) -> String {
    match value.origin() {
        Some("the environment") => {
            format!(
                "{ENVIRONMENT_PREFIX}__{}",
                key.to_uppercase().replace('.', "__")
            )
        }
        Some(origin) => origin.into(),
        None => "the configuration".into(),
    }
}

/// A value for a message.
fn shown(kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) => super::value::toml_string(text),
        ValueKind::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| shown(&item.kind)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Table(_) => "a table".into(),
        other => other.to_string(),
    }
}

/// All problems of a configuration, one a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration is not valid")?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
