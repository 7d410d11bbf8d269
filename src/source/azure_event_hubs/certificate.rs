//! Authenticates an application by certificate: each token request carries an assertion signed with its key.
//!
//! <https://learn.microsoft.com/entra/identity-platform/certificate-credentials>

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PSS_SHA256, RsaKeyPair};
use azure_core::base64::encode_url_safe;
use azure_core::error::{Error, ErrorKind};
use azure_core::http::ClientMethodOptions;
use azure_identity::ClientAssertion;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

/// Lifetime of an assertion. A new one is made for every token.
const LIFETIME_SECONDS: u64 = 600;

/// Signs client assertions with an application's certificate.
pub(super) struct Assertion {
    client_id: String,
    /// The token endpoint, the only audience of the assertion.
    audience: String,
    /// SHA-256 of the certificate.
    thumbprint: String,
    key: RsaKeyPair,
}

impl Assertion {
    /// `pem` holds the certificate and its unencrypted RSA key.
    ///
    /// # Errors
    /// When one of the two is missing or invalid.
    pub(super) fn new(client_id: &str, audience: String, pem: &str) -> azure_core::Result<Self> {
        let unusable = |what: String| Error::with_message(ErrorKind::Credential, format!("client certificate: {what}"));
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| unusable(format!("no certificate in PEM (BEGIN CERTIFICATE): {error}")))?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| unusable(format!("no private key in PEM (BEGIN PRIVATE KEY): {error}")))?;
        let key = match &key {
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            _ => return Err(unusable("its key is not an RSA key, which Entra ID requires".to_owned())),
        };
        Ok(Self {
            client_id: client_id.to_owned(),
            audience,
            thumbprint: encode_url_safe(digest(&SHA256, &certificate)),
            key: key.map_err(|error| unusable(format!("its RSA key can't be used: {error}")))?,
        })
    }

    /// The assertion as a JSON Web Token (RFC 7519), issued at a time in seconds since 1970.
    fn token(&self, now: u64) -> azure_core::Result<String> {
        let header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": self.thumbprint });
        let claims = json!({
            "aud": self.audience, "iss": self.client_id, "sub": self.client_id, "jti": azure_core::Uuid::new_v4().to_string(),
            "nbf": now, "exp": now + LIFETIME_SECONDS,
        });
        let encode = |part: &serde_json::Value| encode_url_safe(part.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PSS_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| Error::with_message(ErrorKind::Credential, "client certificate: its key can't sign"))?;
        Ok(format!("{signed}.{}", encode_url_safe(signature)))
    }
}

impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assertion").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

#[async_trait]
impl ClientAssertion for Assertion {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.token(now.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
    use azure_core::base64::{decode_url_safe, encode};
    use serde_json::Value;

    /// The content of a certificate is not parsed.
    const CERTIFICATE: &[u8] = b"not looked into";

    fn pem(label: &str, der: &[u8]) -> String {
        let text = encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    #[test]
    fn a_statement_is_signed_with_the_key_and_names_the_certificate() {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
        let both = pem("CERTIFICATE", CERTIFICATE) + &pem("PRIVATE KEY", der.as_ref());
        let audience = "https://login.example.com/t/oauth2/v2.0/token";
        let assertion = Assertion::new("app", audience.to_owned(), &both).unwrap();
        let token = assertion.token(1_700_000_000).unwrap();
        let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
        let signed = format!("{header}.{claims}");
        let public = UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, assertion.key.public_key().as_ref());
        public.verify(signed.as_bytes(), &decode_url_safe(signature).unwrap()).unwrap();
        let part = |text: &str| serde_json::from_slice::<Value>(&decode_url_safe(text).unwrap()).unwrap();
        let thumbprint = encode_url_safe(digest(&SHA256, CERTIFICATE));
        assert_eq!(part(header), json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint }));
        let claims = part(claims);
        assert_eq!((&claims["aud"], &claims["iss"], &claims["sub"]), (&json!(audience), &json!("app"), &json!("app")));
        assert_eq!((&claims["nbf"], &claims["exp"]), (&json!(1_700_000_000), &json!(1_700_000_600)));
        assert_ne!(token, assertion.token(1_700_000_000).unwrap(), "each has an id of its own");
        assert!(!format!("{assertion:?}").contains("key"), "{assertion:?}");
    }

    #[test]
    fn what_is_missing_is_told() {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
        for (text, missing) in [
            (pem("PRIVATE KEY", der.as_ref()), "no certificate in PEM"),
            (pem("CERTIFICATE", CERTIFICATE), "no private key in PEM"),
            (pem("CERTIFICATE", CERTIFICATE) + &pem("EC PRIVATE KEY", b"x"), "RSA key"),
            (pem("CERTIFICATE", CERTIFICATE) + &pem("PRIVATE KEY", b"x"), "RSA key"),
        ] {
            let error = Assertion::new("app", String::new(), &text).unwrap_err().to_string();
            assert!(error.contains(missing), "{missing}: {error}");
        }
    }
}
