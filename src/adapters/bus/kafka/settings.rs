//! What is known of the brokers, and the clients' settings that follow from it.

use std::{path::PathBuf, time::Duration};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use soma_config::{Bus, SaslMechanism, Secret, SecurityProtocol};
use soma_contract::topic::{Group, Topic};

/// How long a record may wait for its acknowledgement. With the 3 s that a lease on a shard may be
/// old already, it ends before the 10 s of the lease do.
pub(super) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known of the brokers.
#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// How the connection is protected.
    pub protocol: SecurityProtocol,
    /// How the password is proved, where the protocol is a SASL one.
    pub mechanism: SaslMechanism,
    /// The user, where the protocol is a SASL one.
    pub username: Option<String>,
    /// The password, where the protocol is a SASL one.
    pub password: Option<Secret>,
    /// The certificates that brokers are checked against; those of the system if there is none.
    pub authorities: Option<PathBuf>,
    /// The certificate that is shown to brokers, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Stands before the names of topics and groups.
    pub prefix: String,
    /// The partitions of new topics.
    pub partitions: i32,
    /// How long new topics keep records.
    pub retention: Duration,
    /// How long a consumer may be silent before the others of its group take over.
    pub session_timeout: Duration,
}

impl Options {
    /// Takes the settings over; `None` where no broker is named.
    pub fn of(bus: &Bus, retention: Duration) -> Option<Self> {
        let brokers = bus.bootstrap_servers.clone()?;
        Some(Self {
            brokers,
            protocol: bus.security_protocol,
            mechanism: bus.sasl_mechanism,
            username: bus.sasl_username.clone(),
            password: bus.sasl_password.clone(),
            authorities: bus.tls_ca.clone(),
            identity: bus.tls_cert.clone().zip(bus.tls_key.clone()),
            prefix: bus.prefix.clone().unwrap_or_default(),
            partitions: i32::try_from(bus.partitions).unwrap_or(i32::MAX),
            retention,
            session_timeout: Duration::from_secs(15),
        })
    }

    /// Returns the topic's name on these brokers.
    pub(super) fn topic(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.as_str())
    }

    /// Returns what every client is told.
    pub(super) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "somaagent")
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", "10000")
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("reconnect.backoff.max.ms", "2000")
            .set_log_level(RDKafkaLogLevel::Warning);
        self.protect(&mut config);
        config
    }

    fn protect(&self, config: &mut ClientConfig) {
        config.set("security.protocol", protocol(self.protocol));
        if self.protocol.is_sasl() {
            config.set("sasl.mechanism", mechanism(self.mechanism));
            if let Some(username) = &self.username {
                config.set("sasl.username", username);
            }
            if let Some(password) = &self.password {
                config.set("sasl.password", password.expose());
            }
        }
        if matches!(self.protocol, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl) {
            // The OpenSSL within does not know where this system keeps its certificates: `probe`
            // looks at the usual places.
            let authorities = self.authorities.as_ref().map(|path| path.display().to_string());
            config.set("ssl.ca.location", authorities.as_deref().unwrap_or("probe"));
            if let Some((certificate, key)) = &self.identity {
                config
                    .set("ssl.certificate.location", certificate.display().to_string())
                    .set("ssl.key.location", key.display().to_string());
            }
        }
    }

    /// Returns what a producer is told; records are of at most `limit` bytes.
    pub(super) fn producer(&self, limit: usize) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", MESSAGE_TIMEOUT.as_millis().to_string())
            .set("message.max.bytes", limit.to_string())
            .set("queue.buffering.max.kbytes", "131072")
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            // As the Java client hashes keys, so that writers of both kinds agree.
            .set("partitioner", "murmur2_random");
        config
    }

    /// Returns what a consumer of the group is told.
    pub(super) fn consumer(&self, group: Group) -> ClientConfig {
        let heartbeat = (self.session_timeout / 5).as_millis().to_string();
        let mut config = self.client();
        config
            .set("group.id", format!("{}{}", self.prefix, group.as_str()))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", self.session_timeout.as_millis().to_string())
            .set("heartbeat.interval.ms", heartbeat)
            .set("queued.max.messages.kbytes", "16384")
            // Eager: everything is revoked, committed and assigned anew. The cooperative protocol
            // is not safe with commits by hand (librdkafka 3306, 4059, 5604), and records are not
            // held long. Round robin comes first since the predecessor's consumers know no other.
            .set("partition.assignment.strategy", "roundrobin,range");
        config
    }
}

const fn protocol(protocol: SecurityProtocol) -> &'static str {
    match protocol {
        SecurityProtocol::Plaintext => "plaintext",
        SecurityProtocol::Ssl => "ssl",
        SecurityProtocol::SaslPlaintext => "sasl_plaintext",
        SecurityProtocol::SaslSsl => "sasl_ssl",
    }
}

const fn mechanism(mechanism: SaslMechanism) -> &'static str {
    match mechanism {
        SaslMechanism::Plain => "PLAIN",
        SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
        SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::producer::BaseProducer;

    use super::*;

    fn bus() -> Bus {
        Bus { bootstrap_servers: Some("kafka:9092".to_owned()), ..Bus::default() }
    }

    fn options(bus: &Bus) -> Options {
        Options::of(bus, Duration::from_hours(1)).unwrap()
    }

    #[test]
    fn without_brokers_there_are_no_options() {
        assert!(Options::of(&Bus::default(), Duration::ZERO).is_none());
    }

    #[test]
    fn a_prefix_stands_before_topics_and_groups() {
        let options = options(&Bus { prefix: Some("staging.".to_owned()), ..bus() });
        assert_eq!(options.topic(Topic::MemoryWal), "staging.memory.wal");
        let consumer = options.consumer(Group::MemoryReplicator);
        assert_eq!(consumer.get("group.id"), Some("staging.memory-replicator"));
    }

    #[test]
    fn a_plain_connection_has_neither_user_nor_certificates() {
        let client = options(&bus()).client();
        assert_eq!(client.get("security.protocol"), Some("plaintext"));
        for absent in ["sasl.mechanism", "sasl.username", "ssl.ca.location"] {
            assert_eq!(client.get(absent), None);
        }
    }

    #[test]
    fn every_protection_is_one_that_the_library_has() {
        for protocol in [SecurityProtocol::SaslPlaintext, SecurityProtocol::SaslSsl] {
            for mechanism in
                [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512]
            {
                let bus = Bus {
                    security_protocol: protocol,
                    sasl_mechanism: mechanism,
                    sasl_username: Some("soma".to_owned()),
                    sasl_password: Some(Secret::new("hidden")),
                    ..bus()
                };
                options(&bus).producer(1_000_000).create::<BaseProducer>().unwrap();
            }
        }
    }

    #[test]
    fn certificates_are_named_by_their_files() {
        let bus = Bus {
            security_protocol: SecurityProtocol::Ssl,
            tls_ca: Some("/ca.pem".into()),
            tls_cert: Some("/cert.pem".into()),
            tls_key: Some("/key.pem".into()),
            ..bus()
        };
        let client = options(&bus).client();
        assert_eq!(client.get("ssl.ca.location"), Some("/ca.pem"));
        assert_eq!(client.get("ssl.certificate.location"), Some("/cert.pem"));
        assert_eq!(client.get("ssl.key.location"), Some("/key.pem"));
        let error = client.create::<BaseProducer>().err().unwrap().to_string();
        assert!(error.contains("ssl"), "{error}");
    }
}
