//! Where a new password comes from: the keyboard, the standard input, or chance.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context, bail};
use ring::rand::{SecureRandom, SystemRandom};

use crate::cli::PasswordArgs;

/// Letters and digits that are not mistaken for each other; 32 of them, so 5 bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// 20 characters: 100 bits.
const GENERATED_LEN: usize = 20;

/// A password, and whether it has to be told to whoever ran the command.
pub(crate) struct NewPassword {
    /// The password as it was typed.
    pub(crate) text: String,
    /// It was made up here.
    pub(crate) generated: bool,
}

/// Gets the password.
///
/// # Errors
/// If there is none, or it was typed differently the second time.
pub(crate) fn get(args: &PasswordArgs) -> anyhow::Result<NewPassword> {
    let text = match args {
        PasswordArgs { generate: true, .. } => {
            return Ok(NewPassword {
                text: generate()?,
                generated: true,
            });
        }
        PasswordArgs {
            password_stdin: true,
            ..
        } => first_line(std::io::stdin().lock())?,
        _ if std::io::stdin().is_terminal() => ask()?,
        _ => bail!("no terminal to ask for the password; use --password-stdin or --generate"),
    };
    if text.is_empty() {
        bail!("the password is empty");
    }
    Ok(NewPassword {
        text,
        generated: false,
    })
}

fn ask() -> anyhow::Result<String> {
    let first = rpassword::prompt_password("Password: ").context("cannot read the password")?;
    let second = rpassword::prompt_password("Again: ").context("cannot read the password")?;
    if first != second {
        bail!("the passwords are not the same");
    }
    Ok(first)
}

fn first_line(mut input: impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    input
        .read_line(&mut line)
        .context("cannot read the password")?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

fn generate() -> anyhow::Result<String> {
    let mut bytes = [0; GENERATED_LEN];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        bail!("the operating system has no random numbers");
    }
    Ok(bytes
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte & 31)]))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_the_line_is_cut_off() {
        for (input, password) in [
            ("secret\n", "secret"),
            ("secret", "secret"),
            (" a b \r\nrest", " a b "),
            ("\n", ""),
        ] {
            assert_eq!(first_line(input.as_bytes()).unwrap(), password, "{input:?}");
        }
    }

    #[test]
    fn generated_passwords_differ() {
        let one = generate().unwrap();
        assert_eq!(one.len(), GENERATED_LEN);
        assert_ne!(one, generate().unwrap());
    }
}
