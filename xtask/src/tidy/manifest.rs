//! Rules for `Cargo.toml` files. Reads them line by line; cargo itself checks the rest.

use super::Finding;

/// Every member of the workspace takes the workspace's lints.
pub(super) fn check(path: &str, text: &str) -> Option<Finding> {
    let is_root = path == "Cargo.toml";
    (!is_root && !inherits_lints(text))
        .then(|| Finding::new(path, 1, "needs `[lints]` with `workspace = true`"))
}

fn inherits_lints(text: &str) -> bool {
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[lints]" && line == "workspace = true" {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_takes_the_lints_is_right() {
        assert_eq!(
            check("a/Cargo.toml", "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"),
            None
        );
    }

    #[test]
    fn a_member_without_them_is_found() {
        assert!(check("a/Cargo.toml", "[package]\nname = \"a\"\n").is_some());
        assert!(check("a/Cargo.toml", "[lints]\n[dependencies]\nworkspace = true\n").is_some());
    }

    #[test]
    fn the_workspace_itself_has_nothing_to_take_them_from() {
        assert_eq!(check("Cargo.toml", "[workspace]\n"), None);
    }
}
