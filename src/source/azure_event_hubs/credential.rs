//! Gets tokens with the configured credential.

use std::sync::Mutex;
use std::{fmt, sync::Arc, sync::PoisonError};

use async_trait::async_trait;
use azure_core::cloud::CloudConfiguration;
use azure_core::credentials::{AccessToken, Secret as AzureSecret, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_core::http::ClientOptions;
use azure_core::time::{Duration, OffsetDateTime};
use azure_identity::{
    ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    DeveloperToolsCredential, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};

use super::certificate::Assertion;
use super::config::{ClientCertificate, ClientSecret, Cloud, Credential, ManagedIdentity, WorkloadIdentity};
use crate::secret::Secret;

/// Tokens with less than this left are renewed here. The Event Hubs SDK requests a new token six minutes before the old
/// one expires, when azure_identity still returns the old one from its cache, and does not request it again.
const LEAST_LEFT: Duration = Duration::minutes(10);

/// Tokens of Microsoft Entra ID for a configured credential other than a connection string.
pub struct Tokens {
    credential: Option<Credential>,
    cloud: Cloud,
    current: Mutex<Arc<dyn TokenCredential>>,
}

impl Tokens {
    /// Prepares the credential. Makes no request yet.
    ///
    /// # Errors
    /// When something that the credential needs is missing or malformed.
    pub fn new(credential: Option<&Credential>, cloud: Cloud) -> azure_core::Result<Arc<Self>> {
        let current = Mutex::new(make(credential, cloud)?);
        Ok(Arc::new(Self { credential: credential.cloned(), cloud, current }))
    }
}

#[async_trait]
impl TokenCredential for Tokens {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let current = Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner));
        let token = current.get_token(scopes, options).await?;
        if token.expires_on - OffsetDateTime::now_utc() > LEAST_LEFT {
            return Ok(token);
        }
        let fresh = make(self.credential.as_ref(), self.cloud)?;
        let token = fresh.get_token(scopes, None).await?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(token)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("credential", &self.credential).finish_non_exhaustive()
    }
}

fn make(credential: Option<&Credential>, cloud: Cloud) -> azure_core::Result<Arc<dyn TokenCredential>> {
    Ok(match credential {
        None => return of_environment(cloud),
        Some(Credential::ManagedIdentity(identity)) => managed(identity)?,
        Some(Credential::WorkloadIdentity(identity)) => workload(identity, cloud)?,
        Some(Credential::ClientSecret(ClientSecret { tenant_id, client_id, client_secret })) => {
            client_secret_credential(tenant_id, client_id, client_secret.expose(), cloud)?
        }
        Some(Credential::ClientCertificate(ClientCertificate { tenant_id, client_id, certificate })) => {
            client_certificate(tenant_id, client_id, certificate.expose(), cloud)?
        }
        Some(Credential::DeveloperTools(_)) => DeveloperToolsCredential::new(None)?,
        Some(Credential::ConnectionString(_)) => {
            return Err(azure_core::Error::with_message(
                ErrorKind::Credential,
                "a connection string gives access to the hub only, and no token for anything else",
            ));
        }
    })
}

/// The credential of the environment, see [`Credential`].
fn of_environment(cloud: Cloud) -> azure_core::Result<Arc<dyn TokenCredential>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if variable("AZURE_FEDERATED_TOKEN_FILE").is_some() {
        return Ok(workload(&WorkloadIdentity::default(), cloud)?);
    }
    if let Ok(secret) = Secret::from_reference("env:AZURE_CLIENT_SECRET") {
        let needed = |name: &str| variable(name).unwrap_or_default();
        let (tenant, client) = (needed("AZURE_TENANT_ID"), needed("AZURE_CLIENT_ID"));
        return Ok(client_secret_credential(&tenant, &client, secret.expose(), cloud)?);
    }
    if let Some(path) = variable("AZURE_CLIENT_CERTIFICATE_PATH") {
        let unreadable =
            |error| azure_core::Error::with_error(ErrorKind::Credential, error, "AZURE_CLIENT_CERTIFICATE_PATH");
        let certificate = Secret::from_reference(&format!("file:{path}")).map_err(unreadable)?;
        let needed = |name: &str| variable(name).unwrap_or_default();
        return Ok(client_certificate(
            &needed("AZURE_TENANT_ID"),
            &needed("AZURE_CLIENT_ID"),
            certificate.expose(),
            cloud,
        )?);
    }
    Ok(managed(&ManagedIdentity { client_id: variable("AZURE_CLIENT_ID") })?)
}

fn managed(identity: &ManagedIdentity) -> azure_core::Result<Arc<ManagedIdentityCredential>> {
    let user_assigned_id = identity.client_id.clone().map(UserAssignedId::ClientId);
    ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
        user_assigned_id,
        ..ManagedIdentityCredentialOptions::default()
    }))
}

fn workload(identity: &WorkloadIdentity, cloud: Cloud) -> azure_core::Result<Arc<WorkloadIdentityCredential>> {
    WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
        credential_options: ClientAssertionCredentialOptions { client_options: client_options(cloud) },
        client_id: identity.client_id.clone(),
        tenant_id: identity.tenant_id.clone(),
        token_file_path: identity.token_file.clone(),
        ..WorkloadIdentityCredentialOptions::default()
    }))
}

fn client_secret_credential(
    tenant: &str,
    client: &str,
    secret: &str,
    cloud: Cloud,
) -> azure_core::Result<Arc<ClientSecretCredential>> {
    let options = ClientSecretCredentialOptions { client_options: client_options(cloud) };
    ClientSecretCredential::new(tenant, client.to_owned(), AzureSecret::new(secret.to_owned()), Some(options))
}

fn client_certificate(
    tenant: &str,
    client: &str,
    pem: &str,
    cloud: Cloud,
) -> azure_core::Result<Arc<ClientAssertionCredential<Assertion>>> {
    let audience = format!("{}/{tenant}/oauth2/v2.0/token", authority(cloud));
    let assertion = Assertion::new(client, audience, pem)?;
    let options = ClientAssertionCredentialOptions { client_options: client_options(cloud) };
    ClientAssertionCredential::new(tenant.to_owned(), client.to_owned(), assertion, Some(options))
}

/// The host that the SDK requests tokens from, which must be the audience of a certificate's assertion too.
fn authority(cloud: Cloud) -> String {
    let told = || std::env::var("AZURE_AUTHORITY_HOST").ok().filter(|host| !host.is_empty());
    let host = match cloud {
        Cloud::Public => told().unwrap_or_else(|| "https://login.microsoftonline.com".to_owned()),
        Cloud::UsGovernment => "https://login.microsoftonline.us".to_owned(),
        Cloud::China => "https://login.chinacloudapi.cn".to_owned(),
    };
    host.trim_end_matches('/').to_owned()
}

/// Client options for the cloud that issues tokens. In the public one, `AZURE_AUTHORITY_HOST` overrides it.
fn client_options(cloud: Cloud) -> ClientOptions {
    let cloud = match cloud {
        Cloud::Public => None,
        Cloud::UsGovernment => Some(CloudConfiguration::AzureGovernment),
        Cloud::China => Some(CloudConfiguration::AzureChina),
    };
    ClientOptions { cloud: cloud.map(Arc::new), ..ClientOptions::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns one token after the other, with these lifetimes in minutes.
    #[derive(Debug)]
    struct Scripted(i64);

    #[async_trait]
    impl TokenCredential for Scripted {
        async fn get_token(&self, _: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
            Ok(AccessToken::new("cached".to_owned(), OffsetDateTime::now_utc() + Duration::minutes(self.0)))
        }
    }

    fn tokens(minutes: i64) -> Tokens {
        // Creating the credential again fails, which shows that it was tried.
        let credential = Some(Credential::WorkloadIdentity(WorkloadIdentity {
            tenant_id: Some("tenant".to_owned()),
            client_id: Some("client".to_owned()),
            token_file: Some("/no/such/file".into()),
        }));
        Tokens { credential, cloud: Cloud::Public, current: Mutex::new(Arc::new(Scripted(minutes))) }
    }

    #[tokio::test]
    async fn a_token_about_to_end_is_asked_for_anew() {
        let token = tokens(30).get_token(&["scope"], None).await.unwrap();
        assert_eq!(token.token.secret(), "cached");
        let error = tokens(9).get_token(&["scope"], None).await.unwrap_err().to_string();
        assert!(error.contains("/no/such/file"), "{error}");
    }

    #[test]
    fn a_connection_string_gives_no_token() {
        let secret = Secret::from_reference("env:PATH").unwrap();
        assert!(Tokens::new(Some(&Credential::ConnectionString(secret)), Cloud::Public).is_err());
    }
}
