//! The configuration as a whole: what LibreChat's variables and files come to,
//! what the profiles are, what is refused and what is warned about.

mod layers;
mod profiles;
mod refused;
mod specification;
mod variables;

use super::{Config, ConfigError, check, layer, text::Text};
use crate::telemetry::chain as sentence;

const LIBRECHAT: &str = "{profile: librechat, librechat: {environment: true}}";
const HARDENED: &str = "librechat: {environment: true}";

/// The configuration of a process with these variables and no others.
fn with(yaml: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let owned =
        || variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    check::check(layer::read(&[Text::given(yaml)], layer::Files::All, &owned)?)
}

fn good(yaml: &str, variables: &[(&str, &str)]) -> Config {
    with(yaml, variables).unwrap_or_else(|error| panic!("{variables:?}: {}", sentence(&error)))
}
