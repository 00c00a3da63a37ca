//! The configuration of a daemon under test: nothing shared with the machine
//! or with another test, everything else as users get it.

use std::path::Path;

use serde_json::{Value, json};

/// Sockets, store and pins of their own, and what the caller wants different.
/// Handshakes are not counted: that would be on the machine's control group,
/// where all tests would count each other's.
pub(crate) fn configuration(folder: &Path, pin_root: &Path, overrides: &Value) -> Value {
    let mut configuration = json!({
        "api": { "socket": folder.join("api.sock"), "group": null },
        "admin": { "socket": folder.join("admin.sock"), "group": null },
        "nginx": {
            "socket": folder.join("nginx.sock"),
            "log_socket": folder.join("nginx-log.sock"),
            "group": null,
        },
        "store": { "path": folder.join("moderation.db") },
        "network": { "pin_root": pin_root, "connections": { "enabled": false } },
    });
    merge(&mut configuration, overrides);
    configuration
}

/// Objects are merged key by key; anything else replaces what was there.
pub(crate) fn merge(base: &mut Value, overrides: &Value) {
    match (base, overrides) {
        (_, Value::Null) => {}
        (Value::Object(base), Value::Object(overrides)) => {
            for (key, value) in overrides {
                match base.get_mut(key) {
                    Some(known) if value.is_object() => merge(known, value),
                    _ => drop(base.insert(key.clone(), value.clone())),
                }
            }
        }
        (base, overrides) => *base = overrides.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_go_as_deep_as_they_are_given() {
        let mut base = json!({ "a": { "b": 1, "c": 2 }, "d": [1], "e": 3 });
        merge(&mut base, &json!({ "a": { "b": null }, "d": [2, 3], "f": { "g": 4 } }));
        let expected = json!({ "a": { "b": null, "c": 2 }, "d": [2, 3], "e": 3, "f": { "g": 4 } });
        assert_eq!(base, expected);
    }

    #[test]
    fn no_overrides_change_nothing() {
        let (folder, pins) = (Path::new("/tmp/x"), Path::new("/sys/fs/bpf/x"));
        let plain = configuration(folder, pins, &Value::Null);
        assert_eq!(plain["api"]["socket"], "/tmp/x/api.sock");
        assert_eq!(plain, configuration(folder, pins, &json!({ "network": {} })));
    }
}
