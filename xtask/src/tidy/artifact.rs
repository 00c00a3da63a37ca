//! Rules about what belongs into the repository at all. Knows nothing of what the
//! files say.

use std::collections::BTreeSet;

use super::Finding;

/// Larger binaries than this do not belong into the history of a source repository.
const BINARY_LIMIT_BYTES: usize = 1 << 20;

/// Refuses coverage profiles and large binaries.
pub(super) fn check(path: &str, bytes: &[u8]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if path.ends_with(".profraw") {
        findings.push(Finding::new(path, 1, "a coverage profile; delete it"));
    }
    let is_binary = bytes.contains(&0) || str::from_utf8(bytes).is_err();
    if is_binary && bytes.len() > BINARY_LIMIT_BYTES {
        findings.push(Finding::new(
            path,
            1,
            "a binary of more than 1 MiB; make it when it is needed",
        ));
    }
    findings
}

/// Programs are built from the versions that were tested.
pub(super) fn lock_file_is_tracked(tracked: &BTreeSet<String>) -> Vec<Finding> {
    if tracked.contains("Cargo.lock") {
        return Vec::new();
    }
    vec![Finding::new("Cargo.lock", 1, "must be committed; git add it")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_profiles_are_refused() {
        assert_eq!(check("default.profraw", b"").len(), 1);
        assert_eq!(check("src/profraw.rs", b""), []);
    }

    #[test]
    fn large_binaries_are_refused_and_large_texts_are_not() {
        assert_eq!(check("a.bin", &vec![0; BINARY_LIMIT_BYTES + 1]).len(), 1);
        assert_eq!(check("a.bin", &vec![0; BINARY_LIMIT_BYTES]), []);
        assert_eq!(check("a.txt", &vec![b'a'; BINARY_LIMIT_BYTES + 1]), []);
    }

    #[test]
    fn the_lock_file_must_be_tracked() {
        assert_eq!(lock_file_is_tracked(&BTreeSet::new()).len(), 1);
        assert_eq!(lock_file_is_tracked(&BTreeSet::from(["Cargo.lock".to_owned()])), []);
    }
}
