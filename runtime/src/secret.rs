//! What is read from files that the configuration names: certificates, keys, passwords.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// The authorities that Debian and its like trust.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The longest file of these.
const MAX_BYTES: u64 = 4 << 20;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", .path.display())]
pub struct SecretError {
    path: PathBuf,
    cause: String,
}

impl SecretError {
    fn new(path: &Path, cause: impl fmt::Display) -> Self {
        SecretError { path: path.to_owned(), cause: cause.to_string() }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, SecretError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| SecretError::new(path, error))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| SecretError::new(path, error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(SecretError::new(path, format!("longer than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

/// A password, a token or a key: the file's first line of printable ASCII, without the space around it.
pub(crate) fn line(path: &Path) -> Result<String, SecretError> {
    let text = String::from_utf8(read(path)?).map_err(|_| SecretError::new(path, "isn't text"))?;
    let line = text.lines().next().unwrap_or_default().trim();
    let is_plain = line.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    match (line.is_empty(), is_plain) {
        (true, _) => Err(SecretError::new(path, "its first line is empty")),
        (_, false) => Err(SecretError::new(path, "its first line isn't printable ASCII")),
        _ if line.len() > 8192 => Err(SecretError::new(path, "its first line is longer than 8192 bytes")),
        _ => Ok(line.to_owned()),
    }
}

/// The certificates in a PEM file, or in the system's.
fn authorities(path: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, SecretError> {
    certificates(path.unwrap_or(Path::new(SYSTEM)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SecretError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(SecretError::new(path, "no certificate in PEM")),
        found => found.map_err(|error| SecretError::new(path, error)),
    }
}

/// What TLS is made of.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// How an HTTP client speaks TLS: whom to trust.
///
/// # Errors
/// [`SecretError`].
pub(crate) fn https(ca_file: Option<&Path>) -> Result<TlsConfig, SecretError> {
    Ok(trusting(&authorities(ca_file)?))
}

/// As [`https`] for a client that can do without: where the system has no authorities, nobody is believed.
///
/// # Errors
/// [`SecretError`] for a `ca_file` that is none.
pub(crate) fn https_if_any(ca_file: Option<&Path>) -> Result<TlsConfig, SecretError> {
    match (https(ca_file), ca_file) {
        (Err(_), None) => Ok(trusting(&[])),
        (tls, _) => tls,
    }
}

fn trusting(authorities: &[CertificateDer<'_>]) -> TlsConfig {
    let roots = authorities.iter().map(|found| Certificate::from_der(found).to_owned()).collect();
    let roots = RootCerts::Specific(Arc::new(roots));
    TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider()).build()
}

/// How TLS is spoken: whom to trust, and who the device itself is.
pub(crate) fn tls(
    ca_file: Option<&Path>,
    own: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, SecretError> {
    let path = ca_file.unwrap_or(Path::new(SYSTEM));
    let mut roots = RootCertStore::empty();
    let (n_good, _) = roots.add_parsable_certificates(authorities(ca_file)?);
    if n_good == 0 {
        return Err(SecretError::new(path, "no certificate of an authority"));
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| SecretError::new(path, error))?
        .with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some((cert_file, key_file)) => {
            let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
                .map_err(|error| SecretError::new(key_file, error))?;
            config
                .with_client_auth_cert(certificates(cert_file)?, key)
                .map_err(|error| SecretError::new(cert_file, error))?
        }
    };
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let of = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            line(&path).map_err(|error| error.to_string())
        };
        assert_eq!(of(b" s3cret \r\nsecond"), Ok("s3cret".into()));
        for (text, named) in
            [(&b"\nx"[..], "empty"), (b"a\x01b", "printable"), (b"\xff", "text"), (&[b'x'; 9000], "8192")]
        {
            let error = of(text).unwrap_err();
            assert!(error.contains(named) && error.contains("token"), "{error}");
        }
        assert!(line(Path::new("/does/not/exist")).unwrap_err().to_string().contains("/does/not/exist"));
        std::fs::write(&path, "no certificate").unwrap();
        assert!(tls(Some(&path), None).unwrap_err().to_string().contains("PEM"));
    }
}
