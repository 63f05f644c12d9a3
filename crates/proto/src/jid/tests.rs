use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Result<String, Error> {
    Jid::parse(text).map(|jid| jid.as_str().to_owned())
}
