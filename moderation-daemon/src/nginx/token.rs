//! Who sends a request, by the token that the chat host gave them: a JWT (RFC 7519) with
//! HMAC-SHA256 (RFC 7515), as LibreChat signs it. Pure: the time is an argument. No other
//! algorithm exists here, and a token that is refused is nobody's.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};
use sha2::Sha256;

use crate::engine::UserId;

/// A header that is longer holds no token: LibreChat's has some 300 bytes.
const MAX_TOKEN_BYTES: usize = 4_096;

/// Reads tokens. Clones share nothing but the key's value.
#[derive(Clone)]
pub struct Tokens {
    key: Hmac<Sha256>,
    /// The claim that is the user's id.
    claim: String,
}

/// Without the key.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("claim", &self.claim).finish_non_exhaustive()
    }
}

/// Why a token is nobody's. What is in it is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is no token, or a longer one than there are.
    Malformed,
    /// It says that it is signed in another way.
    Algorithm,
    /// Whoever signed it has another secret.
    Forged,
    /// It is over, or does not say until when it lasts.
    Expired,
    /// It does not hold yet.
    Early,
    /// It names no user.
    Nobody,
}

impl Refused {
    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::Forged => "forged",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::Nobody => "nobody",
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// What must be understood to use the token. Nothing of that is.
    crit: Option<IgnoredAny>,
}

impl Tokens {
    /// Tokens signed with a secret, whose `claim` is the user's id.
    pub fn new(secret: &[u8], claim: impl Into<String>) -> Self {
        let key = Hmac::new_from_slice(secret).expect("a key can have any length");
        Self { key, claim: claim.into() }
    }

    /// Whose the value of an `Authorization` header is; `None`: it holds no bearer token.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn user(&self, authorization: &[u8], now_unix_ms: u64) -> Result<Option<UserId>, Refused> {
        let Some(token) = bearer(authorization) else { return Ok(None) };
        self.read(token, now_unix_ms).map(Some)
    }

    fn read(&self, token: &[u8], now_unix_ms: u64) -> Result<UserId, Refused> {
        let token = str::from_utf8(token).ok().filter(|token| token.len() <= MAX_TOKEN_BYTES);
        let (signed, signature) =
            token.and_then(|token| token.rsplit_once('.')).ok_or(Refused::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Refused::Malformed)?;
        let header: Header = json(header)?;
        if header.alg != "HS256" || header.crit.is_some() {
            return Err(Refused::Algorithm);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refused::Malformed)?;
        // In constant time.
        let sum = self.key.clone().chain_update(signed.as_bytes());
        sum.verify_slice(&signature).map_err(|_| Refused::Forged)?;
        self.claims(&json(claims)?, now_unix_ms)
    }

    /// What a token says that is genuine.
    fn claims(&self, claims: &Map<String, Value>, now_unix_ms: u64) -> Result<UserId, Refused> {
        // Seconds, with a fraction perhaps (RFC 7519, "NumericDate").
        let moment = |name| claims.get(name).map(Value::as_f64);
        #[expect(clippy::cast_precision_loss, reason = "exact for the next 285,000 years")]
        let now = now_unix_ms as f64 / 1_000.0;
        if !moment("exp").flatten().is_some_and(|end| now < end) {
            return Err(Refused::Expired);
        }
        if moment("nbf").is_some_and(|begin| begin.is_none_or(|begin| now < begin)) {
            return Err(Refused::Early);
        }
        let user = claims.get(&self.claim).and_then(Value::as_str);
        user.and_then(|user| user.parse().ok()).ok_or(Refused::Nobody)
    }
}

/// What stands behind `Bearer`, in whatever case (RFC 9110, 11.1).
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.trim_ascii().split_at_checked(6)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && token.starts_with(b" ");
    is_bearer.then(|| token.trim_ascii_start())
}

fn json<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, Refused> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refused::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Refused::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const SECRET: &[u8] = b"16f8c0ef4a5d391b26034086c628469d";
    const NOW_MS: u64 = 1_800_000_000_000;

    fn part(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn signed(header: &Value, claims: &Value, secret: &[u8]) -> String {
        let signed = format!("{}.{}", part(header.to_string()), part(claims.to_string()));
        let key = Hmac::<Sha256>::new_from_slice(secret).expect("a key");
        let sum = key.chain_update(signed.as_bytes()).finalize().into_bytes();
        format!("{signed}.{}", part(sum))
    }

    fn hs256() -> Value {
        json!({ "alg": "HS256", "typ": "JWT" })
    }

    /// As LibreChat's `generateToken` makes them.
    fn anna() -> Value {
        json!({
            "id": "64b0c0ffee64b0c0ffee64b0", "username": "anna", "provider": "local",
            "email": "anna@example.org", "iat": 1_799_999_900, "exp": 1_800_000_800,
        })
    }

    fn read(authorization: &str) -> Result<Option<String>, Refused> {
        let tokens = Tokens::new(SECRET, "id");
        tokens.user(authorization.as_bytes(), NOW_MS).map(|user| user.map(|it| it.to_string()))
    }

    fn with(claims: &[(&str, Value)]) -> Value {
        let mut all = anna();
        for (name, value) in claims {
            all[name] = value.clone();
        }
        all
    }

    #[test]
    fn a_token_that_librechat_signed_names_its_user() {
        // As jsonwebtoken makes it, by Node's own HMAC: sign({id: "u1", exp: 1800000800}, SECRET).
        let theirs = concat!(
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.",
            "eyJpZCI6InUxIiwiZXhwIjoxODAwMDAwODAwLCJpYXQiOjE3OTk5OTk5MDB9.",
            "JF6rR0XM72KYSuBitY6UqUAd-GTyLCbL_qDMcffjXWo"
        );
        assert_eq!(read(&format!("Bearer {theirs}")), Ok(Some("u1".to_owned())));
        let token = signed(&hs256(), &anna(), SECRET);
        let user = Ok(Some("64b0c0ffee64b0c0ffee64b0".to_owned()));
        for scheme in ["Bearer ", "bearer ", "BEARER  "] {
            assert_eq!(read(&format!("{scheme}{token}")), user);
        }
    }

    #[test]
    fn what_is_no_bearer_token_is_nobody_and_no_refusal() {
        for authorization in ["", "Basic YTpi", "Bearer", "Bearer ", "Bearerx.y.z", "Token a.b.c"] {
            assert_eq!(read(authorization), Ok(None), "{authorization}");
        }
    }

    #[test]
    fn every_way_in_which_a_token_can_be_wrong_has_its_name() {
        let token = signed(&hs256(), &anna(), SECRET);
        let (body, signature) = token.rsplit_once('.').expect("it has three parts");
        let header = |value: Value| signed(&value, &anna(), SECRET);
        let claims = |changed: &[(&str, Value)]| signed(&hs256(), &with(changed), SECRET);
        let cases = [
            ("none", header(json!({ "alg": "none" })), Refused::Algorithm),
            (
                "none, unsigned",
                format!("{}.{}.", part(r#"{"alg":"none"}"#), part(anna().to_string())),
                Refused::Algorithm,
            ),
            ("None", header(json!({ "alg": "None" })), Refused::Algorithm),
            ("hs256", header(json!({ "alg": "hs256" })), Refused::Algorithm),
            ("HS512", header(json!({ "alg": "HS512" })), Refused::Algorithm),
            ("RS256", header(json!({ "alg": "RS256" })), Refused::Algorithm),
            ("crit", header(json!({ "alg": "HS256", "crit": ["b64"] })), Refused::Algorithm),
            ("no alg", header(json!({ "typ": "JWT" })), Refused::Malformed),
            (
                "another secret",
                signed(&hs256(), &anna(), b"another secret, as long"),
                Refused::Forged,
            ),
            ("no signature", format!("{body}."), Refused::Forged),
            ("half a signature", format!("{body}.{}", &signature[..20]), Refused::Forged),
            ("padded", format!("{token}="), Refused::Malformed),
            ("two parts", body.to_owned(), Refused::Malformed),
            ("four parts", format!("{token}.x"), Refused::Malformed),
            ("too long", format!("{}{token}", "x".repeat(MAX_TOKEN_BYTES)), Refused::Malformed),
            ("claims that are none", signed(&hs256(), &json!(["exp"]), SECRET), Refused::Malformed),
            ("over", claims(&[("exp", json!(1_800_000_000))]), Refused::Expired),
            ("over for long", claims(&[("exp", json!(1))]), Refused::Expired),
            ("no end", claims(&[("exp", Value::Null)]), Refused::Expired),
            ("an end that is a text", claims(&[("exp", json!("1800000800"))]), Refused::Expired),
            ("not yet", claims(&[("nbf", json!(1_800_000_001))]), Refused::Early),
            ("a beginning that is a text", claims(&[("nbf", json!("1"))]), Refused::Early),
            ("no user", claims(&[("id", Value::Null)]), Refused::Nobody),
            ("a number", claims(&[("id", json!(7))]), Refused::Nobody),
            ("an empty user", claims(&[("id", json!(""))]), Refused::Nobody),
            ("a long user", claims(&[("id", json!("x".repeat(129)))]), Refused::Nobody),
        ];
        for (what, token, want) in cases {
            assert_eq!(read(&format!("Bearer {token}")), Err(want), "{what}");
        }
    }

    #[test]
    fn a_token_holds_until_its_end_and_not_a_moment_longer() {
        let tokens = Tokens::new(SECRET, "id");
        let token = format!("Bearer {}", signed(&hs256(), &anna(), SECRET));
        let holds = |now_ms| tokens.user(token.as_bytes(), now_ms).is_ok();
        assert!(holds(1_800_000_799_999) && !holds(1_800_000_800_000));
    }

    #[test]
    fn the_claim_that_names_the_user_is_the_operator_s() {
        let token = format!("Bearer {}", signed(&hs256(), &anna(), SECRET));
        let named = |claim: &str| Tokens::new(SECRET, claim).user(token.as_bytes(), NOW_MS);
        assert_eq!(
            named("username").map(|it| it.map(|it| it.to_string())),
            Ok(Some("anna".into()))
        );
        assert_eq!(named("sub"), Err(Refused::Nobody));
    }

    #[test]
    fn the_secret_is_not_printed() {
        let shown = format!("{:?}", Tokens::new(SECRET, "id"));
        assert_eq!(shown, "Tokens { claim: \"id\", .. }");
    }

    proptest! {
        #[test]
        fn no_token_is_taken_of_which_a_byte_is_another(at in 0_usize..1_000, to in any::<u8>()) {
            let mut token = signed(&hs256(), &anna(), SECRET).into_bytes();
            let at = at % token.len();
            prop_assume!(token[at] != to);
            token[at] = to;
            let bytes = [b"Bearer ".as_slice(), &token].concat();
            let user = Tokens::new(SECRET, "id").user(&bytes, NOW_MS);
            prop_assert!(!matches!(user, Ok(Some(_))));
        }

        #[test]
        fn no_bytes_whatsoever_are_a_token(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let bytes = [b"Bearer ".as_slice(), &bytes].concat();
            let user = Tokens::new(SECRET, "id").user(&bytes, NOW_MS);
            prop_assert!(!matches!(user, Ok(Some(_))));
        }
    }
}
