//! What a sign of life says, case by case.

use super::*;

const LIFE: &str = "ours";

fn sign(beat: u64, at: u64, life: &str) -> Sign {
    let life = (!life.is_empty()).then(|| life.to_owned());
    Sign { beat_unix_ms: beat, at_unix_ms: Some(at), life }
}

#[test]
fn a_sign_of_life_tells_a_twin_from_a_backup_and_from_an_earlier_life() {
    let nothing = Taken::default();
    let earlier = Taken { beat_unix_ms: Some(100), at_unix_ms: None };
    let now = Taken { beat_unix_ms: Some(100), at_unix_ms: Some(500) };
    let cases = [
        ("nothing was ever left", &nothing, None, Standing::Ours),
        ("somebody was there before", &nothing, Some(sign(90, 490, "other")), Standing::Ours),
        ("ours is gone", &now, None, Standing::SetBack),
        ("that of the life before is gone", &earlier, None, Standing::SetBack),
        ("ours is there", &now, Some(sign(100, 500, LIFE)), Standing::Ours),
        ("an older one of ours", &now, Some(sign(95, 495, LIFE)), Standing::SetBack),
        ("a backup of an earlier life", &now, Some(sign(50, 450, "before")), Standing::SetBack),
        ("the life before", &earlier, Some(sign(100, 500, "before")), Standing::Ours),
        (
            "an older one than the life before",
            &earlier,
            Some(sign(90, 490, "x")),
            Standing::SetBack,
        ),
        ("a twin", &now, Some(sign(101, 501, "twin")), Standing::Twin),
        ("a twin at the same moment", &now, Some(sign(100, 500, "twin")), Standing::Twin),
        ("a twin whose clock is behind", &now, Some(sign(7, 501, "twin")), Standing::Twin),
        ("a version that names no life", &now, Some(sign(100, 500, "")), Standing::Ours),
    ];
    for (name, taken, there, want) in cases {
        assert_eq!(taken.judge(there.as_ref(), LIFE), want, "{name}");
    }
}
