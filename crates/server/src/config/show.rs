//! The configuration as text: effective values, and the documentation of all settings.

use std::fmt::Write;

use super::{Config, DefaultValue, Setting, settings};

impl Config {
    /// The effective configuration as a TOML document with comments. Passwords are masked, so it is
    /// for reading; with a masked password it is not a configuration to start from.
    pub(crate) fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        for (setting, value) in settings().iter().zip(self.masked_values()) {
            if setting.section != section {
                section = setting.section;
                write_section(&mut out, setting);
            }
            write_comment(&mut out, setting);
            let unset = value == "\"\"";
            let value = match setting.path().as_str() {
                "storage.url" if unset => super::value::toml_string(&self.storage_url()),
                _ => value,
            };
            let hash = if unset && setting.path() != "storage.url" {
                "# "
            } else {
                ""
            };
            let _ = writeln!(out, "{hash}{} = {value}", setting.key);
        }
        out
    }
}

/// All settings at their defaults, as a file to start from.
#[cfg(test)]
pub(super) fn sample() -> String {
    let mut out = String::from(
        "# Rookery's settings, all at their defaults. The environment (ROOKERY__SECTION__KEY) and\n\
         # --set section.key=value override this file. `rookery config check` says what is wrong with it,\n\
         # `rookery config show` what it amounts to.\n",
    );
    let mut section = "";
    for setting in settings() {
        if setting.section != section {
            section = setting.section;
            write_section(&mut out, &setting);
        }
        write_comment(&mut out, &setting);
        let _ = match setting.default {
            DefaultValue::Fixed(toml) => writeln!(out, "# {} = {toml}", setting.key),
            DefaultValue::Computed(text, _) => writeln!(out, "# {} = <{text}>", setting.key),
            DefaultValue::Absent(_) => writeln!(out, "# {} = \"\"", setting.key),
        };
    }
    out
}

/// All settings as the tables of `docs/configuration.md`, one a section.
#[cfg(test)]
pub(super) fn markdown() -> String {
    let mut out = String::new();
    let mut section = "";
    for setting in settings() {
        if setting.section != section {
            section = setting.section;
            let _ = write!(
                out,
                "\n## `[{section}]`\n\n{}\n\n",
                text_of(setting.section_doc)
            );
            out.push_str("| key | default | meaning | allowed |\n|---|---|---|---|\n");
        }
        let default = match setting.default {
            DefaultValue::Fixed(toml) => format!("`{toml}`"),
            DefaultValue::Computed(text, _) | DefaultValue::Absent(text) => text.into(),
        };
        let _ = writeln!(
            out,
            "| `{}` | {default} | {} | {} |",
            setting.path(),
            with_live(&setting),
            setting.allowed
        );
    }
    out
}

/// What a setting means, and whether it can be changed while the server runs.
#[cfg(test)]
fn with_live(setting: &Setting) -> String {
    let mut text = text_of(setting.doc);
    if Config::is_live(&setting.path()) {
        text.push_str(" *Live.*");
    }
    text
}

fn write_section(out: &mut String, setting: &Setting) {
    let _ = write!(
        out,
        "\n# {}\n[{}]\n",
        text_of(setting.section_doc),
        setting.section
    );
}

fn write_comment(out: &mut String, setting: &Setting) {
    for line in setting.doc {
        let _ = writeln!(out, "# {}", line.trim());
    }
    let _ = writeln!(out, "# Allowed: {}", setting.allowed);
    if let DefaultValue::Computed(text, _) | DefaultValue::Absent(text) = setting.default {
        let _ = writeln!(out, "# Default: {text}");
    }
}

fn text_of(doc: &[&str]) -> String {
    doc.iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ")
}
