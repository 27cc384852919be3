//! What is accepted of an issuer, and every way around it that is known.

mod issuer;
mod url;

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quorate_engine::config::{Grant, JwtAlgorithm};
use quorate_protocol::access::{Action, Target};
use ring::hmac;
use serde_json::json;
use tempfile::TempDir;

use self::issuer::{Private, encode};
use super::*;

const NOW: WallTime = WallTime(1_800_000_000_000);
const NOW_S: u64 = NOW.0 / 1000;

/// A node that takes tokens of one issuer, who has one key of each kind.
struct World {
    jwt: Arc<Jwt>,
    file: PathBuf,
    rsa: Private,
    ec: Private,
    ed: Private,
    _dir: TempDir,
}

fn grant(claim: &str, value: &str) -> Grant {
    let scopes = json!([{"actions": ["read"], "buckets": [value]}]);
    let scopes = serde_json::from_value(scopes).unwrap();
    Grant { claim: claim.to_owned(), value: value.to_owned(), scopes }
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut JwtConfig)) -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("keys.json");
        let (rsa, ec, ed) = (Private::rsa(), Private::p256(), Private::ed());
        let keys = json!({"keys": [rsa.public("r"), ec.public("e"), ed.public("d")]});
        fs::write(&file, keys.to_string()).unwrap();
        let mut config = JwtConfig {
            keys: file.display().to_string(),
            issuer: "https://issuer.example".to_owned(),
            audience: vec!["quorate".to_owned(), "other-name".to_owned()],
            algorithms: vec![
                JwtAlgorithm::RS256,
                JwtAlgorithm::PS512,
                JwtAlgorithm::ES256,
                JwtAlgorithm::EdDSA,
            ],
            scopes_claim: "scopes".to_owned(),
            ..JwtConfig::default()
        };
        change(&mut config);
        let jwt = Jwt::load(&config).unwrap().unwrap();
        Self { jwt, file, rsa, ec, ed, _dir: dir }
    }

    fn verify(&self, token: &str) -> Result<Arc<Subject>, Rejected> {
        self.jwt.verify(token, NOW)
    }

    /// A token of the issuer with some claims changed; `null` removes one.
    fn token(&self, changes: &Value) -> String {
        self.ec.sign(&header(), &claims(changes))
    }

    fn refused(&self, token: &str) -> Rejected {
        let refused = self.verify(token).unwrap_err();
        assert_eq!(self.verify(token).unwrap_err(), refused, "nothing is remembered of it");
        refused
    }
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "e", "typ": "JWT"})
}

fn claims(changes: &Value) -> String {
    let mut claims = json!({
        "iss": "https://issuer.example",
        "aud": "quorate",
        "sub": "alice",
        "exp": NOW_S + 60,
        "nbf": NOW_S,
        "scopes": [{"actions": ["read"], "buckets": ["carts"]}],
    });
    for (name, value) in changes.as_object().unwrap() {
        match value.is_null() {
            true => drop(claims.as_object_mut().unwrap().remove(name)),
            false => claims[name] = value.clone(),
        }
    }
    claims.to_string()
}

#[test]
fn a_token_of_the_issuer_says_who_it_is_and_what_they_may_do() {
    let world = World::new();
    let alice = world.verify(&world.token(&json!({}))).unwrap();
    assert_eq!((&*alice.name, alice.expires), ("alice", WallTime(NOW.0 + 90_000)));
    let may = |bucket| access_of(&alice, bucket);
    assert!(may("carts") && !may("other"));
    for (key, alg, kid) in [
        (&world.rsa, "RS256", Some("r")),
        (&world.rsa, "PS512", Some("r")),
        (&world.ed, "EdDSA", Some("d")),
        (&world.ed, "EdDSA", None), // there is only one that it could be
    ] {
        let header = json!({"alg": alg, "kid": kid});
        let same = world.verify(&key.sign(&header, &claims(&json!({})))).unwrap();
        assert_eq!(same.id, alice.id, "{alg}: it follows from issuer and name");
    }
    let bob = world.verify(&world.token(&json!({"sub": "bob"}))).unwrap();
    assert_ne!(bob.id, alice.id);
}

fn access_of(subject: &Subject, bucket: &str) -> bool {
    quorate_protocol::access::allow(&subject.scopes, Action::Read, Target::bucket(bucket))
}

#[test]
fn an_unsigned_token_and_one_signed_with_a_public_key_are_refused() {
    let world = World::new();
    let all = claims(&json!({}));
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let message = format!("{}.{}", encode(json!({"alg": alg}).to_string()), encode(&all));
        for token in [format!("{message}."), format!("{message}.{}", encode("x"))] {
            assert_eq!(world.refused(&token), Rejected::Malformed, "{alg}");
        }
        assert!(world.verify(&message).is_err());
    }
    // The public key as the secret of an HMAC, in each form that a library may have had it in.
    let public = world.rsa.public("r");
    let n = URL_SAFE_NO_PAD.decode(public["n"].as_str().unwrap()).unwrap();
    for secret in [n, public.to_string().into_bytes(), fs::read(&world.file).unwrap()] {
        for kid in [json!("r"), Value::Null] {
            let header = json!({"alg": "HS256", "kid": kid});
            let message = format!("{}.{}", encode(header.to_string()), encode(&all));
            let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
            assert_eq!(world.refused(&format!("{message}.{}", encode(mac))), Rejected::Algorithm);
        }
    }
}

#[test]
fn a_key_verifies_only_what_it_is_for() {
    let world = World::new();
    let all = claims(&json!({}));
    for (key, alg, kid, why) in [
        (&world.rsa, "RS256", "e", Rejected::OtherAlgorithm),
        (&world.ec, "ES256", "r", Rejected::OtherAlgorithm),
        (&world.ec, "ES256", "d", Rejected::OtherAlgorithm),
        (&world.rsa, "RS384", "r", Rejected::Algorithm), // nothing that is configured
        (&world.ec, "RS256", "r", Rejected::Signature),
        (&world.ed, "ES256", "e", Rejected::Signature),
        (&world.rsa, "EdDSA", "d", Rejected::Signature),
    ] {
        let token = key.sign(&json!({"alg": alg, "kid": kid}), &all);
        assert_eq!(world.refused(&token), why, "{alg} by {kid}");
    }
    // Another key with the right name, and a key that the token brings itself.
    let stranger = Private::p256();
    assert_eq!(world.refused(&stranger.sign(&header(), &all)), Rejected::Signature);
    let brought = json!({"alg": "ES256", "kid": "e", "jwk": stranger.public("e")});
    assert_eq!(world.refused(&stranger.sign(&brought, &all)), Rejected::Signature);
    let elsewhere = json!({"alg": "ES256", "kid": "mine", "jku": "https://evil.example/keys"});
    assert_eq!(world.refused(&stranger.sign(&elsewhere, &all)), Rejected::UnknownKey);
}

#[test]
fn a_kid_is_a_name_and_nothing_else() {
    let world = World::new();
    let long = "k".repeat(4000);
    for kid in
        ["../../dev/null", "/etc/passwd", "e\0", "E", " e", "' OR 1=1 --", "", "$(id)", &long]
    {
        let token = world.ec.sign(&json!({"alg": "ES256", "kid": kid}), &claims(&json!({})));
        assert_eq!(world.refused(&token), Rejected::UnknownKey, "{kid:?}");
    }
    for kid in [json!(1), json!(["e"]), json!({"e": "e"})] {
        let token = world.ec.sign(&json!({"alg": "ES256", "kid": kid}), &claims(&json!({})));
        assert_eq!(world.refused(&token), Rejected::Malformed, "{kid}");
    }
    let two = json!({"keys": [Private::p256().public("a"), world.ec.public("b")]});
    world.jwt.take(two.to_string().as_bytes()).unwrap();
    let unnamed = world.ec.sign(&json!({"alg": "ES256"}), &claims(&json!({})));
    assert_eq!(world.refused(&unnamed), Rejected::UnnamedKey);
}

#[test]
fn claims_are_for_this_cluster_now_and_of_this_issuer() {
    let world = World::new();
    for (changes, why) in [
        (json!({"iss": "https://evil.example"}), Rejected::Issuer),
        (json!({"iss": "https://issuer.example/"}), Rejected::Issuer),
        (json!({"iss": ["https://issuer.example"]}), Rejected::Issuer),
        (json!({"iss": null}), Rejected::Issuer),
        (json!({"aud": "quorate2"}), Rejected::Audience),
        (json!({"aud": ["a", "b"]}), Rejected::Audience),
        (json!({"aud": []}), Rejected::Audience),
        (json!({"aud": {"quorate": true}}), Rejected::Audience),
        (json!({"aud": null}), Rejected::Audience),
        (json!({"exp": NOW_S - 30}), Rejected::Expired),
        (json!({"exp": 0}), Rejected::Expired),
        (json!({"exp": null}), Rejected::Claim("exp")),
        (json!({"exp": "9999999999"}), Rejected::Claim("exp")),
        (json!({"exp": -1}), Rejected::Claim("exp")),
        (json!({"exp": []}), Rejected::Claim("exp")),
        (json!({"nbf": NOW_S + 31}), Rejected::NotYet),
        (json!({"nbf": 1e300}), Rejected::NotYet),
        (json!({"nbf": "0"}), Rejected::Claim("nbf")),
        (json!({"sub": null}), Rejected::Claim("sub")),
        (json!({"sub": ""}), Rejected::Claim("sub")),
        (json!({"sub": 7}), Rejected::Claim("sub")),
        (json!({"sub": "a\nb"}), Rejected::Claim("sub")),
        (json!({"sub": "a".repeat(257)}), Rejected::Claim("sub")),
    ] {
        assert_eq!(world.refused(&world.token(&changes)), why, "{changes}");
    }
    for changes in [
        json!({"aud": ["x", "other-name"]}),
        json!({"exp": NOW_S - 29}),
        json!({"exp": NOW_S as f64 + 0.5}),
        json!({"exp": 1e300}),
        json!({"nbf": NOW_S + 30}),
        json!({"nbf": null, "iat": NOW_S + 1000}),
    ] {
        assert!(world.verify(&world.token(&changes)).is_ok(), "{changes}");
    }
}

#[test]
fn what_was_verified_is_remembered_until_it_ends() {
    let world = World::new();
    let token = world.token(&json!({}));
    let first = world.verify(&token).unwrap();
    assert!(Arc::ptr_eq(&first, &world.verify(&token).unwrap()));
    let end = first.expires;
    assert!(world.jwt.verify(&token, WallTime(end.0 - 1)).is_ok());
    assert_eq!(world.jwt.verify(&token, end).unwrap_err(), Rejected::Expired);
    assert!(first.is_good(NOW) && !first.is_good(end));
}

#[test]
fn a_header_that_demands_more_is_refused() {
    let world = World::new();
    let with = |more: Value| {
        let mut header = header();
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.ec.sign(&header, &claims(&json!({})))
    };
    for (more, why) in [
        (json!({"crit": ["exp"], "exp": 1}), Rejected::Signature),
        (json!({"crit": ["http://example/x"], "http://example/x": true}), Rejected::Signature),
        (json!({"crit": []}), Rejected::Signature),
        (json!({"b64": false, "crit": ["b64"]}), Rejected::Signature),
        (json!({"typ": "logout+jwt"}), Rejected::OtherType),
        (json!({"typ": "secevent+jwt"}), Rejected::OtherType),
        (json!({"cty": "JWT"}), Rejected::OtherType),
        (json!({"zip": "DEF"}), Rejected::OtherType),
        (json!({"enc": "A256GCM"}), Rejected::OtherType),
    ] {
        assert_eq!(world.refused(&with(more.clone())), why, "{more}");
    }
    for typ in ["jwt", "at+jwt", "application/at+jwt"] {
        assert!(world.verify(&with(json!({"typ": typ}))).is_ok(), "{typ}");
    }
}

#[test]
fn what_is_too_long_or_no_token_is_refused_before_anything_is_verified() {
    let world = World::new();
    let good = world.token(&json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    let (header, body, signature) = (parts[0], parts[1], parts[2]);
    let mut deep = "[".repeat(3000);
    deep += &"]".repeat(3000);
    for bad in [
        "..".to_owned(),
        format!("{header}.{body}"),
        format!("{good}.x"),
        format!("{header}..{signature}"),
        format!("{header}.{body}."),
        format!(" {good}"),
        format!("{header}.{body}.{signature}="),
        format!("{header}.{}.{signature}", encode("{}")),
        format!("{}.{body}.{signature}", encode("[]")),
        format!("{}.{body}.{signature}", encode(format!("{{\"alg\":{deep}}}"))),
        format!("{}.{body}.{signature}", encode([0xff, 0xfe])),
        format!("{header}.{body}.{}", &signature[..signature.len() - 2]),
        format!("{header}.{body}.{}", encode([0; 64])),
    ] {
        assert!(world.verify(&bad).is_err(), "{}", &bad[..bad.len().min(80)]);
    }
    let long = world.token(&json!({"more": "x".repeat(TOKEN_BYTES_MAX)}));
    assert_eq!(world.refused(&long), Rejected::TooLong);
    let claims = world.ec.sign(&super::tests::header(), &deep);
    assert_eq!(world.refused(&claims), Rejected::Signature);
    for cut in 0..good.len() {
        assert!(world.verify(&good[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn claims_give_what_the_configuration_says_they_give() {
    let world = World::with(|config| {
        config.grants = vec![
            grant("groups", "shop"),
            grant("/realm/roles", "staff"),
            grant("scope", "carts"),
            grant("https://example/claim", "url"),
        ];
    });
    let may = |changes: &Value, bucket: &str| {
        let mut changes = changes.clone();
        changes["scopes"] = changes.get("scopes").cloned().unwrap_or(Value::Null);
        access_of(&world.verify(&world.token(&changes)).unwrap(), bucket)
    };
    for (changes, bucket, is_given) in [
        (json!({"groups": ["a", "shop"]}), "shop", true),
        (json!({"groups": "shop"}), "shop", true),
        (json!({"groups": "a shop"}), "shop", false),
        (json!({"groups": {"shop": true}}), "shop", false),
        (json!({"realm": {"roles": ["staff"]}}), "staff", true),
        (json!({"/realm/roles": "staff"}), "staff", false),
        (json!({"roles": "staff"}), "staff", false),
        (json!({"scope": "openid carts"}), "carts", true),
        (json!({"scope": "openid carts2"}), "carts", false),
        (json!({"https://example/claim": "url"}), "url", true),
        (json!({}), "shop", false),
        (json!({"scopes": "[{\"actions\": [\"read\"], \"buckets\": [\"b\"]}]"}), "b", true),
        (json!({"scopes": [{"actions": ["admin"]}]}), "anything", true),
    ] {
        assert_eq!(may(&changes, bucket), is_given, "{changes}");
    }
    for wrong in [
        json!("read"),
        json!({"actions": ["read"]}),
        json!([{"actions": ["reed"]}]),
        json!([{"actions": ["read"]}]),
        json!([{"actions": ["read"], "buckets": ["_own"]}]),
        json!(vec![json!({"actions": ["look"]}); 9]),
    ] {
        let refused = world.refused(&world.token(&json!({"scopes": wrong})));
        assert_eq!(refused, Rejected::Scopes, "{wrong}");
    }
}

#[test]
fn keys_come_and_go_and_what_is_no_set_changes_nothing() {
    let world = World::new();
    let (old, next) = (world.token(&json!({})), Private::p256());
    let of_old = world.verify(&old).unwrap();
    let header = json!({"alg": "ES256", "kid": "next"});
    let new = next.sign(&header, &claims(&json!({})));
    assert_eq!(world.refused(&new), Rejected::UnknownKey);
    let take = |keys: Value| world.jwt.take(json!({ "keys": keys }).to_string().as_bytes());
    assert_eq!(take(json!([world.ec.public("e"), next.public("next")])), Ok((2, 0)));
    assert!(world.verify(&new).is_ok() && Arc::ptr_eq(&world.verify(&old).unwrap(), &of_old));
    let long = format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(keys::SET_BYTES_MAX));
    for wrong in ["", "[]", "{}", "{\"keys\": {}}", "{\"keys\": [", &long] {
        assert!(world.jwt.take(wrong.as_bytes()).is_err());
    }
    assert!(take(json!(vec![json!({}); 65])).is_err());
    let double = take(json!([world.ec.public("e"), next.public("e")])).unwrap_err();
    assert!(double.contains("one kid"), "{double}");
    assert!(
        world.verify(&old).is_ok() && world.verify(&new).is_ok(),
        "all that left them in place"
    );
    assert_eq!(take(json!([next.public("next")])), Ok((1, 0)));
    assert_eq!(world.refused(&old), Rejected::UnknownKey);
    assert!(!of_old.is_good(NOW) && world.verify(&new).is_ok(), "its key is withdrawn");
    // The same name for another key.
    assert_eq!(take(json!([world.ec.public("next")])), Ok((1, 0)));
    assert_eq!(world.refused(&new), Rejected::Signature);
    assert_eq!(take(json!([])), Ok((0, 0)), "the issuer has withdrawn all");
    assert_eq!(world.refused(&world.ec.sign(&header, &claims(&json!({})))), Rejected::UnknownKey);
}

#[test]
fn keys_for_something_else_are_passed_over() {
    let world = World::new();
    let mut encrypting = world.ec.public("a");
    encrypting["use"] = json!("enc");
    let mut wrapping = world.ec.public("b");
    wrapping["key_ops"] = json!(["wrapKey"]);
    let mut other = world.ec.public("c");
    other["alg"] = json!("ES384");
    let mut short = world.rsa.public("d");
    short["n"] = json!(encode([0xff; 128]));
    let mut torn = world.ec.public("e2");
    torn["x"] = json!("AAAA");
    let symmetric = json!({"kty": "oct", "kid": "f", "k": encode("secret"), "alg": "HS256"});
    let unknown = json!({"kty": "EC", "crv": "secp256k1", "kid": "g", "x": "AA", "y": "AA"});
    let keys = json!([encrypting, wrapping, other, short, torn, symmetric, unknown, 7, "x", {}]);
    let (used, passed_over) =
        world.jwt.take(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
    assert_eq!((used, passed_over), (0, 10));
}

#[test]
fn a_rate_is_of_the_subject_whichever_token_it_uses() {
    let world = World::with(|config| config.rate_per_s = 1);
    let one = world.verify(&world.token(&json!({}))).unwrap();
    let two = world.verify(&world.token(&json!({"jti": "2"}))).unwrap();
    let bob = world.verify(&world.token(&json!({"sub": "bob"}))).unwrap();
    let take = |of: &Subject| of.pace.as_ref().unwrap().take(5_000_000).is_ok();
    assert!(take(&one) && !take(&two) && take(&bob));
}

#[test]
fn a_file_with_keys_must_be_there_at_the_start() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("none.json").display().to_string();
    let config = JwtConfig { keys, ..JwtConfig::default() };
    let error = Jwt::load(&config).err().unwrap().to_string();
    assert!(error.contains("jwt.keys") && error.contains("none.json"), "{error}");
    assert!(Jwt::load(&JwtConfig::default()).unwrap().is_none());
}
