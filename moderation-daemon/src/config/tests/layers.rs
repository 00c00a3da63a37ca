//! Which of several layers counts: profile, .env, environment, librechat.yaml,
//! our own file. And what never gets into any of it.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::{good, sentence, with};
use crate::{
    config::{Config, Profile, Secret, render},
    engine::{BanLength, By, Decay, EventType, Limiter, Step, Unit, ViolationType, Windowing},
};

fn folder(env: &str, yaml: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("there is room");
    fs::write(folder.path().join(".env"), env).expect("there is room");
    fs::write(folder.path().join("librechat.yaml"), yaml).expect("there is room");
    folder
}

fn own(folder: &Path, more: &str) -> String {
    let folder = folder.display();
    format!("librechat: {{env_file: {folder}/.env, yaml: {folder}/librechat.yaml}}\n{more}")
}

fn max(config: &Config, limiter: Limiter) -> u64 {
    config.rules.limiter(limiter).expect("it is on").limit.max
}

#[test]
fn our_own_file_beats_the_yaml_which_beats_the_environment_which_beats_the_env_file() {
    let env = "FILE_UPLOAD_IP_MAX=11\n";
    let yaml = "rateLimits: {fileUploads: {ipMax: 13}}";
    let outside = [("FILE_UPLOAD_IP_MAX", "12")];
    let with_all = folder(env, yaml);
    let at = with_all.path().display();
    let table = [
        (String::new(), 100, "".to_owned()),
        (
            format!("librechat: {{env_file: {at}/.env}}"),
            11,
            format!("FILE_UPLOAD_IP_MAX=\"11\" in {at}/.env:1"),
        ),
        (
            format!("librechat: {{env_file: {at}/.env, environment: true}}"),
            12,
            "FILE_UPLOAD_IP_MAX=\"12\" in the environment".to_owned(),
        ),
        (
            format!(
                "librechat: {{env_file: {at}/.env, environment: true, yaml: {at}/librechat.yaml}}"
            ),
            13,
            format!("rateLimits.fileUploads.ipMax: 13 in {at}/librechat.yaml"),
        ),
        (
            own(with_all.path(), "limits: {file_upload_ip: {max: 14}}"),
            14,
            "in the configuration".to_owned(),
        ),
    ];
    for (text, want, origin) in table {
        let config = good(&text, &outside);
        assert_eq!(max(&config, Limiter::FILE_UPLOAD_IP), want, "{text}");
        let said = config.origins.get("limits.file_upload_ip.max").map(ToString::to_string);
        assert_eq!(said.unwrap_or_default(), origin);
    }
}

#[test]
fn an_env_file_is_read_as_dotenv_reads_it_and_says_the_line() {
    let env = "# LibreChat\nexport LOGIN_MAX='3' # three\r\nBAN_VIOLATIONS=true\nLOGIN_MAX=4\n\n\
               BAN_DURATION=1000 * 60 * 60 # an hour\n";
    let folder = folder(env, "");
    let config = good(&own(folder.path(), "profile: librechat"), &[]);
    assert_eq!(max(&config, Limiter::LOGIN), 4);
    assert_eq!(config.rules.ban.length, BanLength::For(3_600_000));
    let at = folder.path().display();
    let want = format!("LOGIN_MAX=\"4\" in {at}/.env:4");
    assert_eq!(config.origins["limits.login.max"].to_string(), want);
    let want = format!("{want}: it stands in line 2 too; the last one counts");
    assert_eq!(config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), [want]);
}

#[test]
fn rate_limits_go_through_the_environment_as_in_librechat() {
    let table = [("7", 7), ("0", 100), ("2.5", 2), ("1e21", 1), (".inf", 100)];
    for (number, want) in table {
        let folder = folder("", &format!("rateLimits: {{fileUploads: {{ipMax: {number}}}}}"));
        let config = good(&own(folder.path(), "profile: librechat"), &[]);
        assert_eq!(max(&config, Limiter::FILE_UPLOAD_IP), want, "{number}");
    }
}

#[test]
fn a_yaml_s_anchors_and_merges_are_followed() {
    let yaml = "x: &x {ipMax: 7}\nrateLimits:\n  fileUploads:\n    <<: *x\n    userMax: 8\n";
    let folder = folder("", yaml);
    let config = good(&own(folder.path(), ""), &[]);
    assert_eq!(max(&config, Limiter::FILE_UPLOAD_IP), 7);
    assert_eq!(max(&config, Limiter::FILE_UPLOAD_USER), 8);
}

#[test]
fn how_long_sessions_live_is_told_as_that_is_how_long_a_soft_ban_takes() {
    let variables = [("SESSION_EXPIRY", "1000 * 60"), ("JWT_SECRET", "x"), ("REDIS_URI", "")];
    let told = &good(super::LIBRECHAT, &variables).effective.told;
    assert_eq!(told["SESSION_EXPIRY"], "1m, \"1000 * 60\" in the environment");
    assert_eq!(told["REFRESH_TOKEN_EXPIRY"], "7d, not set");
    assert_eq!(told["JWT_SECRET"], "set");
    assert_eq!(told["REDIS_URI"], "empty");
    assert_eq!(told["USE_REDIS"], "not set");
    assert!(good("", &[]).effective.told.is_empty(), "nobody asked about LibreChat");
}

#[test]
fn tokens_are_checked_by_the_secret_that_librechat_has_where_no_credential_is() {
    let nginx = "nginx: {enabled: true, user: {from: token}, \
                 routes: [{method: GET, path: /, counts: login}]}";
    for (env, want) in [("JWT_SECRET=hunter2-hunter2\n", Some("hunter2-hunter2")), ("", None)] {
        let folder = folder(env, "");
        let nginx = good(&own(folder.path(), nginx), &[]).nginx.expect("it is on");
        let secret = nginx.jwt_secret();
        assert_eq!(secret.as_ref().ok().map(Secret::expose), want, "{env}");
        if let Err(error) = secret {
            assert!(error.to_string().contains("librechat.env_file"), "{error}");
        }
    }
}

#[test]
fn a_cap_that_nobody_asked_for_makes_room_for_a_long_ban() {
    let year = [("BAN_VIOLATIONS", "true"), ("BAN_DURATION", "365 * 24 * 60 * 60 * 1000")];
    let config = good(super::HARDENED, &year);
    let growth = config.rules.ban.growth.expect("it is on");
    assert_eq!(growth.cap_ms, 365 * 86_400_000);
    let shown = &config.effective;
    assert_eq!(shown.values["bans"]["growth"]["cap"], "365d", "what counts is shown");
    assert_eq!(shown.origins["bans.growth.cap"], "as long as bans.duration, the shortest ban");
    assert!(render(shown).contains("cap: 365d  # as long as bans.duration"), "{}", render(shown));
}

#[test]
fn a_cap_that_is_longer_than_the_first_ban_is_shown_as_it_was_written() {
    for (yaml, want, origin) in [
        ("bans: {duration: 3h}", "30d", None),
        ("bans: {duration: 3h, growth: {cap: 7d}}", "7d", Some("in the configuration")),
    ] {
        let shown = good(yaml, &[]).effective;
        assert_eq!(shown.values["bans"]["growth"]["cap"], want, "{yaml}");
        assert_eq!(shown.origins.get("bans.growth.cap").map(String::as_str), origin, "{yaml}");
    }
}

#[test]
fn rate_limits_that_librechat_reads_too_late_count_only_where_they_are_wanted() {
    let yaml = "rateLimits:\n  fileUploads: {userMax: 2}\n  conversationsImport: {userMax: 3}\n  \
                tts: {userMax: 4}\n  stt: {userMax: 5}\n  agentEvents: {userMax: 6, ipMax: 1}\n";
    let limiters = [
        Limiter::FILE_UPLOAD_USER,
        Limiter::IMPORT_USER,
        Limiter::TTS_USER,
        Limiter::STT_USER,
        Limiter::AGENT_EVENT,
    ];
    let folder = folder("BAN_VIOLATIONS=true", yaml);
    let at = folder.path().display();
    let path = format!("{at}/librechat.yaml");
    let late = |key: &str| {
        format!(
            "rateLimits.{key} in {path}: LibreChat v0.8.7 reads it too late for it to count; with \
             librechat.apply_inert_yaml it does"
        )
    };
    let unread = format!("rateLimits.agentEvents.ipMax: 1 in {path}: LibreChat does not read it");
    let inert =
        [late("conversationsImport.userMax: 3"), late("tts.userMax: 4"), late("stt.userMax: 5")];
    let all = [2, 3, 4, 5, 6];
    let table = [
        ("profile: librechat", false, [2, 50, 50, 50, 6]),
        ("profile: librechat", true, all),
        ("profile: hardened", false, all),
    ];
    for (profile, applies, want) in table {
        let text = format!(
            "{{{profile}, librechat: {{env_file: {at}/.env, yaml: {path}, apply_inert_yaml: {applies}}}}}"
        );
        let config = good(&text, &[]);
        assert_eq!(limiters.map(|limiter| max(&config, limiter)), want, "{text}");
        let said: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        let is_late = want != all;
        let want: Vec<_> = inert.iter().filter(|_| is_late).chain([&unread]).cloned().collect();
        assert_eq!(said.len(), want.len(), "{said:?}");
        assert!(want.iter().all(|want| said.contains(want)), "{said:?}");
    }
}

#[test]
fn files_that_are_not_there_or_no_yaml_are_named() {
    let table = [
        ("librechat: {env_file: /nowhere/.env}", "cannot read /nowhere/.env: "),
        ("librechat: {yaml: /nowhere/l.yaml}", "cannot read /nowhere/l.yaml: "),
    ];
    for (text, want) in table {
        let error = sentence(&with(text, &[]).map(|_| ()).expect_err("it is not there"));
        assert!(error.starts_with(want), "{error}");
    }
    let folder = folder("", "rateLimits: {tts: {ipMax: many}}");
    let error = with(&own(folder.path(), ""), &[]).map(|_| ()).expect_err("it is no number");
    assert!(sentence(&error).ends_with("librechat.yaml: rateLimits.tts.ipMax: not a number"));
    fs::write(folder.path().join("librechat.yaml"), "a: [").expect("there is room");
    let error = with(&own(folder.path(), ""), &[]).map(|_| ()).expect_err("it is no YAML");
    assert!(sentence(&error).contains("librechat.yaml: the configuration does not parse"));
    fs::write(folder.path().join(".env"), vec![b'\n'; (1 << 20) + 1]).expect("there is room");
    let error = with(&own(folder.path(), ""), &[]).map(|_| ()).expect_err("it is too large");
    assert!(sentence(&error).ends_with("has more than 1048576 bytes"), "{error}");
}

/// A secret by its own name, one in a variable of ours, one that a forgotten
/// quote pulled into a limit, one in a key of our own that is refused.
#[test]
fn no_secret_is_in_anything_that_is_shown() {
    const SECRET: &str = "hunter2-hunter2";
    let env = format!(
        "BAN_VIOLATIONS=true\nJWT_SECRET={SECRET}\nOPENAI_MODERATION_API_KEY={SECRET}\n\
         REDIS_URI=redis://:{SECRET}@localhost\nREDIS_KEY_PREFIX={SECRET}\nMONGO_URI={SECRET}\n\
         OPENAI_MODERATION_REVERSE_PROXY=https://{SECRET}@localhost/\nTRUST_PROXY={SECRET}\n\
         USE_REDIS=true\nLIMIT_MESSAGE_USER={SECRET}\nLOGIN_MAX='7\nCREDS_KEY={SECRET}'\n\
         FORK_IP_MAX=12 {SECRET}\n"
    );
    let folder = folder(&env, "");
    let yaml = own(folder.path(), "profile: librechat");
    let config = good(&yaml, &[]);
    assert!(config.warnings.len() >= 4, "{:?}", config.warnings);
    let shown = format!(
        "{config:?}{}{}{}",
        render(&config.effective),
        serde_json::to_string(&*config.effective).expect("plain values"),
        config.warnings.iter().map(ToString::to_string).collect::<String>(),
    );
    assert!(shown.contains("JWT_SECRET: set\n"), "{shown}");
    assert!(
        shown.contains("REDIS_URI: set\n") && shown.contains("REDIS_KEY_PREFIX_VAR: not set\n")
    );
    // LibreChat's own records would tell these two as they are; ours are numbers.
    assert!(!shown.contains("hunter2"), "{shown}");
    let error =
        with(&own(folder.path(), "profile: hardened"), &[]).map(|_| ()).expect_err("no number");
    assert!(!sentence(&error).contains("hunter2"), "{error:?}");
    assert!(sentence(&error).contains("LOGIN_MAX=(not shown) in "), "{error:?}");
    assert!(config.librechat.uses_redis);
}

/// As it is written there, and not that it is set.
#[test]
fn librechat_s_redis_is_taken_with_where_it_was_named_and_our_own_file_beats_it() {
    let env = "BAN_VIOLATIONS=true\nUSE_REDIS=true\nREDIS_URI=redis://192.0.2.1:7\n\
               REDIS_KEY_PREFIX_VAR=DEPLOYMENT\nREDIS_USERNAME=app\n";
    let folder = folder(env, "");
    let named =
        own(folder.path(), "librechat: {environment: true}").replacen("}\nlibrechat: {", ", ", 1);
    let config = good(&named, &[("DEPLOYMENT", "blue")]);
    assert_eq!(config.redis.uris, ["redis://192.0.2.1:7"]);
    assert_eq!(config.redis.prefix, "blue::moderation");
    assert_eq!(config.redis.login.username.as_ref().map(Secret::expose), Some("app"));
    assert_eq!(config.redis.enabled, cfg!(feature = "redis"));
    let at = folder.path().display();
    let origin = |config: &Config, key: &str| config.effective.origins.get(key).cloned();
    for (key, want) in [
        ("redis.enabled", format!("USE_REDIS=\"true\" in {at}/.env:2")),
        ("redis.uri", format!("REDIS_URI=\"set\" in {at}/.env:3")),
        ("redis.prefix", format!("REDIS_KEY_PREFIX_VAR=\"set\" in {at}/.env:4")),
    ] {
        assert_eq!(origin(&config, key), Some(want), "{key}");
    }
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);

    let unnamed = good(&own(folder.path(), ""), &[]);
    assert_eq!(unnamed.redis.prefix, "moderation");
    let told = unnamed.warnings.iter().map(ToString::to_string).collect::<String>();
    assert!(told.starts_with("REDIS_KEY_PREFIX_VAR: the variable that it names"), "{told}");

    let more = "redis: {uri: \"redis://192.0.2.2\", prefix: ours}";
    let ours = good(&own(folder.path(), more), &[]);
    assert_eq!(ours.redis.uris, ["redis://192.0.2.2"]);
    assert_eq!((ours.redis.prefix.as_str(), ours.warnings.len()), ("ours", 0));
    assert_eq!(origin(&ours, "redis.uri").as_deref(), Some("in the configuration"));
}

#[test]
fn a_section_of_which_all_is_commented_out_says_nothing() {
    let config = good("limits:\nbans:\nscores:\n  #logins: 3\n", &[]);
    let keys: Vec<_> = config.origins.keys().collect();
    assert!(keys.is_empty(), "{keys:?}");
    assert_eq!(config.profile, Profile::Hardened);
}

#[test]
fn what_a_section_does_not_say_stays_as_the_profile_has_it() {
    let config = good("{bans: {growth: {cap: 7d}}, scoring: {repeats: {free: 0}}}", &[]);
    let growth = config.rules.ban.growth.expect("it is on");
    assert_eq!((growth.factor, growth.cap_ms), (2.0, 7 * 86_400_000));
    let repeats = config.rules.scoring.repeats.expect("it is on");
    assert_eq!((repeats.window_ms, repeats.free), (2_000, 0));
    let keys: Vec<_> = config.origins.keys().map(String::as_str).collect();
    assert_eq!(keys, ["bans.growth.cap", "scoring.repeats.free"]);
    // In librechat there is nothing to stay; the rest is as in hardened.
    let config = good("{profile: librechat, bans: {growth: {cap: 7d}}}", &[]);
    assert_eq!(config.rules.ban.growth.map(|it| it.factor), Some(2.0));
    let config = good("bans: {growth: null, shared: null}", &[]);
    assert_eq!((config.rules.ban.growth, config.rules.ban.shared), (None, None));
}

#[test]
fn tiers_are_the_operator_s_alone_once_there_are_any() {
    let yaml = "{tiers: {enabled: true, limiter: message_ip, max: {gold: 7}}}";
    let rules = good(yaml, &[]).rules;
    let tiers: Vec<_> = rules.tiers.0.iter().map(|(tier, max)| (&**tier, *max)).collect();
    assert_eq!(tiers, [("gold", 7)]);
    let tiered: Vec<_> =
        rules.limiters.iter().filter(|rule| rule.is_tiered).map(|rule| rule.limiter).collect();
    assert_eq!(tiered, [Limiter::MESSAGE_IP]);
    let yaml = "{tiers: {enabled: true}, limits: {message_user: {enabled: true}}}";
    assert_eq!(good(yaml, &[]).rules.tiers.0.len(), 3);
    assert!(good("", &[]).rules.tiers.0.is_empty());
}

#[test]
fn kinds_of_ones_own_are_counted_and_scored() {
    let yaml = "custom:\n  violations: {layers_spam: {score: 3}}\n  limits:\n    layers_uploads: \
                {by: account, max: 9, window: 2m, cost: bytes, violation: layers_spam, score: 4}\n  \
                events: {layers_upload: {limits: [layers_uploads, message_ip], browser: true}}\n";
    let rules = good(yaml, &[]).rules;
    let violation = ViolationType::from_name("layers_spam").expect("it is known now");
    assert_eq!(*rules.scoring.points.of(violation), 3.0);
    let limiter = Limiter::from_name("layers_uploads").expect("it is known now");
    let rule = rules.limiter(limiter).expect("it is on");
    assert_eq!(
        (rule.by, rule.unit, rule.limit.max, rule.limit.window_ms),
        (By::Account, Unit::Bytes, 9, 120_000)
    );
    assert_eq!(
        (rule.violation, rule.points, rule.count_rejected),
        (Some(violation), Some(4.0), false)
    );
    let event = EventType::from_name("layers_upload").expect("it is known now");
    let event = rules.event(event).expect("it is asked about");
    assert_eq!(event.limiters, [limiter, Limiter::MESSAGE_IP]);
    assert!(event.browser);
    // They can have ladders and blocks of their own.
    let yaml = format!(
        "{yaml}penalties: {{by_type: {{layers_spam: {{ladder: [remove_content]}}}}}}\n\
         bans: {{network_block_by_type: {{layers_spam: never}}}}\n"
    );
    let rules = good(&yaml, &[]).rules;
    assert!(rules.ladders.of(violation).is_some());
}

#[test]
fn a_ladder_and_everything_else_is_taken_as_written() {
    let yaml = "penalties:\n  allow_permanent: true\n  suspension: 24h\n  by_type:\n    \
                message_limit:\n      forget_after: 7d\n      severity: high\n      ladder:\n      \
                - warning: {message: Slow down}\n      - remove_content\n      \
                - reduce: {factor: 0.5, duration: 7d}\n      - ban: {duration: 2h}\n      \
                - permanent\n";
    let rules = good(yaml, &[]).rules;
    let ladder = rules.ladders.of(ViolationType::MESSAGE_LIMIT).as_ref().expect("it is there");
    const DAY: u64 = 86_400_000;
    let want = [
        Step::Warning { message: "Slow down".into() },
        Step::RemoveContent,
        Step::Reduce { factor_permille: 500, for_ms: 7 * DAY },
        Step::Ban { for_ms: DAY / 12 },
        Step::Permanent,
    ];
    assert_eq!(ladder.steps, want);
    assert_eq!((ladder.forget_after_ms, rules.suspension_ms), (7 * DAY, DAY));
    assert!(rules.ladders.of(ViolationType::LOGINS).is_none());

    let yaml = "{counting: {windows: fixed, v6_bits: 128, max_keys: 5000}, scoring: {decay: \
                half_life, half_life: 12h}, bans: {duration: soft, protected: {users: [u1], roles: \
                [ADMIN]}}, adaptive: {enabled: true}, snapshot: {every: 1s}, log: {pseudonyms: true}}";
    let config = good(yaml, &[]);
    assert_eq!(config.rules.counting.windows, Windowing::Fixed);
    assert_eq!(config.rules.bounds.windows, 5_000);
    let decay = Decay::HalfLife { ms: DAY / 2, step_ms: DAY / 48 };
    assert_eq!(config.rules.scoring.decay, decay);
    assert_eq!(config.rules.ban.length, BanLength::Soft);
    assert_eq!(config.rules.ban.protected.users.len(), 1);
    assert!(config.rules.ban.protected.roles.contains("ADMIN"));
    let adaptive = config.rules.adaptive.expect("it is on");
    assert_eq!((adaptive.paying_permille, adaptive.rise_permille_per_hour), (1_500, 50));
    assert!(config.log.pseudonyms && config.snapshot_every.as_secs() == 1);
    let step = good("scoring: {half_life: 48h}", &[]).rules.scoring.decay;
    assert_eq!(step, Decay::HalfLife { ms: 2 * DAY, step_ms: DAY / 24 });
}

#[test]
fn files_of_the_folder_beside_are_laid_over_the_file_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().expect("there is room");
    let main = folder.path().join("moderation.yaml");
    let beside = folder.path().join("moderation.d");
    let write = |path: &Path, text: &str| fs::write(path, text).expect("there is room");
    write(&main, "profile: librechat\nlimits: {login: {max: 3}}\nallowlist: [192.0.2.1]\n");
    let load = || Config::load(Some(&main));
    assert_eq!(max(&load().expect("it is right"), Limiter::LOGIN), 3);

    fs::create_dir(&beside).expect("there is room");
    let [early, late] = ["10-a.yaml", "9-b.yaml"].map(|name| beside.join(name));
    write(&late, "profile: hardened\nlimits: {login: {max: 5}}\n");
    write(&early, "network: {enforce: false}\nlimits: {login: {max: 4}}\nallowlist: [192.0.2.2]");
    // Left behind by an editor and by a package manager.
    write(&beside.join(".x.yaml"), "nonsense: 1");
    write(&beside.join("10-a.yaml.dpkg-old"), "nonsense: 1");
    let config = load().expect("it is right");
    assert_eq!((max(&config, Limiter::LOGIN), config.profile), (5, Profile::Hardened));
    assert!(!config.network.enforce);
    let listed: Vec<_> = config.allowlist.iter().map(ToString::to_string).collect();
    assert_eq!(listed, ["192.0.2.2/32"], "a list is replaced");
    let origin = |key: &str| config.effective.origins[key].clone();
    assert_eq!(origin("limits.login.max"), format!("in {}", late.display()));
    assert_eq!(origin("allowlist"), format!("in {}", early.display()));
    assert_eq!(origin("profile"), format!("in {}", late.display()));
}

#[test]
fn an_error_names_the_file_that_it_is_in() {
    let folder = tempfile::tempdir().expect("there is room");
    let main = folder.path().join("m.yaml");
    let beside = folder.path().join("m.d");
    fs::create_dir(&beside).expect("there is room");
    let over = beside.join("50-setup.yaml");
    let table = [
        ("", "allowlist: [office]", &over, "\"office\" is no address and no prefix"),
        ("", "network: {interfaces: 7}", &over, "invalid type"),
        ("", "allowlist: [192.0.2.1", &over, "does not parse"),
        ("", "limits: {login: {max: 0}}", &over, "limits.login.max"),
        ("limits: {login: {max: 0}}", "", &main, "limits.login.max"),
        // What counts is what they come to together.
        ("limits: {login: {max: 0}}", "limits: {login: {max: 7}}", &over, ""),
    ];
    for (text, text_over, file, problem) in table {
        fs::write(&main, text).expect("there is room");
        fs::write(&over, text_over).expect("there is room");
        match Config::load(Some(&main)) {
            Ok(_) => assert_eq!(problem, "", "{text:?} {text_over:?}"),
            Err(error) => {
                let sentence = sentence(&error);
                let place = format!("in {}: ", file.display());
                assert!(!problem.is_empty() && sentence.contains(problem), "{sentence}");
                assert!(sentence.starts_with(&place), "{sentence}");
            }
        }
    }
    fs::remove_file(&over).and_then(|()| fs::create_dir(&over)).expect("it can be replaced");
    let error = Config::load(Some(&main)).expect_err("a folder cannot be read");
    assert!(sentence(&error).contains("50-setup.yaml"), "{}", sentence(&error));
}
