//! What a hawkBit server says, as JSON.

use serde::Deserialize;

use super::super::web::is_address;
use crate::bundle::Digest;

/// What the server says when it is asked for work.
#[derive(Debug, Deserialize)]
pub(super) struct Poll {
    #[serde(default)]
    pub(super) config: PollConfig,
    #[serde(default, rename = "_links")]
    pub(super) links: Links,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct PollConfig {
    #[serde(default)]
    pub(super) polling: Polling,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Polling {
    /// `HH:MM:SS`.
    #[serde(default)]
    pub(super) sleep: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Links {
    pub(super) config_data: Option<Link>,
    pub(super) deployment_base: Option<Link>,
    pub(super) cancel_action: Option<Link>,
    pub(super) confirmation_base: Option<Link>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Link {
    pub(super) href: String,
}

/// Something to be installed.
#[derive(Debug, Deserialize)]
pub(super) struct Action {
    pub(super) id: String,
    pub(super) deployment: Deployment,
}

#[derive(Debug, Deserialize)]
pub(super) struct Deployment {
    /// `skip`, `attempt` or `forced`.
    pub(super) download: String,
    /// As `download`; `skip` outside of a maintenance window.
    pub(super) update: String,
    #[serde(default)]
    pub(super) chunks: Vec<Chunk>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Chunk {
    #[serde(default)]
    pub(super) artifacts: Vec<Artifact>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Artifact {
    pub(super) filename: String,
    #[serde(default)]
    pub(super) hashes: Hashes,
    pub(super) size: u64,
    #[serde(rename = "_links")]
    pub(super) links: ArtifactLinks,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Hashes {
    pub(super) sha256: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ArtifactLinks {
    pub(super) download: Option<Link>,
    pub(super) download_http: Option<Link>,
}

/// Something to be undone.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cancel {
    pub(super) cancel_action: Stop,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stop {
    pub(super) stop_id: String,
}

/// The one bundle of a deployment: its SHA-256, and where it lies.
pub(super) fn the_bundle(deployment: &Deployment) -> Result<(&Artifact, Digest, &str), String> {
    let artifacts = deployment.chunks.iter().flat_map(|chunk| &chunk.artifacts);
    let bundles: Vec<&Artifact> =
        artifacts.filter(|artifact| artifact.filename.ends_with(".bundle")).collect();
    let [artifact] = bundles[..] else {
        return Err(format!("artifacts: expected one whose name ends with .bundle, found {}", bundles.len()));
    };
    let name = &artifact.filename;
    let hash = artifact.hashes.sha256.clone().unwrap_or_default().to_ascii_lowercase();
    let digest = Digest::try_from(hash).map_err(|why| format!("{name}: SHA-256: {why}"))?;
    let links = [&artifact.links.download, &artifact.links.download_http];
    let url = links.into_iter().flatten().map(|link| link.href.as_str()).find(|url| is_address(url));
    let url = url.ok_or_else(|| format!("{name}: expected a download link with https, found none"))?;
    Ok((artifact, digest, url))
}

/// Seconds of `HH:MM:SS`, at least 1 and at most a week.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let parts: Vec<u64> = text.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = parts[..] else { return None };
    let total = hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?.checked_add(seconds)?;
    Some(total.clamp(1, 604_800))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_between_looks_is_read() {
        for (text, expected) in [
            ("00:05:00", Some(300)),
            ("12:00:01", Some(43_201)),
            ("00:00:00", Some(1)),
            ("999999:00:00", Some(604_800)),
            ("99999999999999999999:0:0", None),
            ("18446744073709551615:00:00", None),
            ("5", None),
            ("", None),
            ("-1:00:00", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
