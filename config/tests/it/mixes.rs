//! Which engines go together, and who must get in.

use crate::{PROD, environment, loaded, told};

const DSN: (&str, &str) = ("SA01_DB_DSN", "postgresql://db/soma");
const KAFKA: (&str, &str) = ("SA01_KAFKA_BOOTSTRAP_SERVERS", "kafka:9092");
const REDIS: (&str, &str) = ("SA01_REDIS_URL", "redis://redis");
const SECRET: (&str, &str) = ("SA01_AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef");

#[test]
fn the_three_allowed_mixes_start() {
    for mix in [vec![], vec![DSN], vec![DSN, KAFKA, REDIS]] {
        assert!(loaded(environment(&mix)).warnings.is_empty());
    }
}

#[test]
fn any_other_mix_is_a_fault_that_says_why() {
    for (mix, reasons) in [
        (
            vec![KAFKA],
            vec!["SA01_KAFKA_BOOTSTRAP_SERVERS=`kafka:9092` (environment) needs Postgre"],
        ),
        (vec![REDIS], vec!["SA01_REDIS_URL=`redis://redis` (environment) needs PostgreSQL"]),
        (vec![DSN, KAFKA], vec!["SA01_KAFKA_BOOTSTRAP_SERVERS=`kafka:9092` (environment) needs R"]),
        (vec![DSN, REDIS], vec!["SA01_REDIS_URL=`redis://redis` (environment) needs Kafka"]),
        (vec![KAFKA, REDIS], vec!["SA01_KAFKA_BOOTSTRAP_SERVERS", "SA01_REDIS_URL"]),
    ] {
        let told = told(&mix);
        assert_eq!(told.len(), reasons.len(), "{told:?}");
        for (told, reason) in told.iter().zip(reasons) {
            assert!(told.starts_with(reason), "{told}");
        }
    }
}

#[test]
fn prod_does_not_start_without_its_servers_and_a_key() {
    let told = told(&[("SA01_DEPLOYMENT_MODE", "prod")]);
    let names: Vec<_> = told.iter().filter_map(|told| told.split([' ', '=']).next()).collect();
    assert_eq!(
        names,
        [
            "SA01_DB_DSN",
            "SA01_KAFKA_BOOTSTRAP_SERVERS",
            "SA01_REDIS_URL",
            "SA01_POLICY_URL",
            "SA01_AUTH_REQUIRED",
        ]
    );
    assert!(told[4].contains("there is no key to check a token with"), "{told:?}");
}

#[test]
fn prod_does_not_start_with_authentication_off() {
    let told = told(&[PROD.as_slice(), &[("SA01_AUTH_REQUIRED", "false")]].concat());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("SA01_AUTH_REQUIRED=`false` (environment) must not be off"));
}

#[test]
fn each_kind_of_key_will_do() {
    let without_key: Vec<_> = PROD.into_iter().filter(|(name, _)| *name != SECRET.0).collect();
    for key in [
        SECRET,
        ("SA01_AUTH_JWT_PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----"),
        ("SA01_AUTH_JWKS_URL", "https://id/jwks"),
    ] {
        let variables = [without_key.as_slice(), &[key]].concat();
        assert!(loaded(environment(&variables)).config.auth.has_key_source());
    }
}

#[test]
fn a_key_that_no_accepted_algorithm_uses_is_a_fault() {
    for key in [SECRET, ("SA01_AUTH_JWKS_URL", "https://id/jwks")] {
        let algorithm = if key == SECRET { "RS256" } else { "HS256" };
        let told = told(&[key, ("SA01_AUTH_JWT_ALGORITHMS", algorithm)]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("has no use for"), "{told:?}");
    }
}

#[test]
fn dev_without_authentication_listens_on_loopback_only() {
    let open = [("SA01_GATEWAY_BIND", "0.0.0.0:8010"), ("SA01_ADMIN_BIND", "[::]:9400")];
    let told = told(&open);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("SA01_GATEWAY_BIND=`0.0.0.0:8010` (environment) can be reached"));
    assert!(told[1].starts_with("SA01_ADMIN_BIND=`[::]:9400` (environment) can be reached"));
    loaded(environment(&[("SA01_GATEWAY_BIND", "[::1]:0"), ("SA01_ADMIN_BIND", "127.0.0.2:0")]));
    let locked = [open.as_slice(), &[SECRET, ("SA01_AUTH_REQUIRED", "true")]].concat();
    loaded(environment(&locked));
}

#[test]
fn a_subset_of_services_needs_servers_and_all_of_them_is_no_subset() {
    let subset = ("SA01_SERVICES", "gateway,housekeeping");
    let told = told(&[subset]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("SA01_SERVICES=`gateway,housekeeping` (environment) needs Postg"));
    let config = loaded(environment(&[subset, DSN, KAFKA, REDIS])).config;
    assert!(config.deployment.is_subset());
    assert!(config.deployment.runs("gateway") && !config.deployment.runs("tool-executor"));
    let all = soma_config::SERVICES.join(",");
    assert!(!loaded(environment(&[("SA01_SERVICES", &all)])).config.deployment.is_subset());
}
