//! Settings that are one of a few words.

use std::fmt;

use super::Value;

macro_rules! choice {
    (
        $(#[doc = $about:literal])+
        $name:ident, $hint:literal {
            $( $(#[doc = $doc:literal])+ $variant:ident = $word:literal, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $( $(#[doc = $doc])+ $variant, )+
        }

        impl $name {
            /// The word in the configuration.
            pub fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }

        impl Value for $name {
            const KIND: &'static str = $hint;
            const HINT: &'static str = $hint;
            const LIST_HINT: &'static str = concat!("a list, separated by commas, of ", $hint);

            fn parse(text: &str) -> Result<Self, String> {
                let text = text.trim();
                $( if text.eq_ignore_ascii_case($word) { return Ok(Self::$variant); } )+
                Err("is not one of the words this setting knows".to_owned())
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    };
}

choice! {
    /// How much the process insists on before it starts.
    Mode, "`dev` or `prod`" {
        /// Runs with nothing installed: every key has a working default.
        Dev = "dev",
        /// Insists on its servers and on authentication.
        Prod = "prod",
    }
}

choice! {
    /// The shape of a log line.
    LogFormat, "`auto`, `json` or `pretty`" {
        /// Pretty on a terminal, JSON otherwise.
        Auto = "auto",
        /// One JSON object a line.
        Json = "json",
        /// Lines for people.
        Pretty = "pretty",
    }
}

choice! {
    /// How the connection to Kafka is protected.
    SecurityProtocol, "`plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`" {
        /// Neither encrypted nor authenticated.
        Plaintext = "plaintext",
        /// Encrypted.
        Ssl = "ssl",
        /// Authenticated, not encrypted.
        SaslPlaintext = "sasl_plaintext",
        /// Encrypted and authenticated.
        SaslSsl = "sasl_ssl",
    }
}

impl SecurityProtocol {
    /// Whether a user name and a password are asked for.
    pub fn is_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

choice! {
    /// How the password is proved to Kafka.
    SaslMechanism, "`PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`" {
        /// The password itself.
        Plain = "PLAIN",
        /// A salted challenge with SHA-256.
        ScramSha256 = "SCRAM-SHA-256",
        /// A salted challenge with SHA-512.
        ScramSha512 = "SCRAM-SHA-512",
    }
}

choice! {
    /// A signature that a token may carry.
    JwtAlgorithm, "`HS256`, `RS256` or `ES256`" {
        /// HMAC with the shared secret.
        Hs256 = "HS256",
        /// RSA with a public key.
        Rs256 = "RS256",
        /// ECDSA over P-256 with a public key.
        Es256 = "ES256",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_in_any_case() {
        assert_eq!(Mode::parse("PROD"), Ok(Mode::Prod));
        assert_eq!(SecurityProtocol::parse("SASL_SSL"), Ok(SecurityProtocol::SaslSsl));
        assert!(Mode::parse("staging").is_err());
    }
}
