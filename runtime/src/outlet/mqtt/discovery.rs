//! What Home Assistant is told, so that a device shows up by itself (its MQTT discovery).

use serde_json::{Value, json};

use super::Topics;
use crate::watch::event::Model;

/// Topics and what is retained there: one for each entity.
pub(super) fn entities(
    prefix: &str,
    device_id: &str,
    topics: &Topics,
    model: &Model,
) -> Vec<(String, Vec<u8>)> {
    let version = env!("CARGO_PKG_VERSION");
    // A verdict of an untrained model never stands without the word.
    let (named, model_named) = match model.status {
        "untrained" => (" (untrained model)", format!("{} {} (untrained)", model.id, model.version)),
        _ => ("", format!("{} {}", model.id, model.version)),
    };
    let entity = |component: &str, object: &str, name: &str, template: &str, more: Value| {
        let mut config = json!({
            "name": name,
            "unique_id": format!("candor_{device_id}_{object}"),
            "object_id": format!("candor_{device_id}_{object}"),
            "state_topic": topics.state,
            "value_template": template,
            "availability_topic": topics.availability,
            "device": {
                "identifiers": [format!("candor_{device_id}")],
                "name": format!("Candor {device_id}"),
                "model": model_named,
                "sw_version": version,
            },
            "origin": { "name": "candor", "sw_version": version },
        });
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        let topic = format!("{prefix}/{component}/candor_{device_id}/{object}/config");
        (topic, config.to_string().into_bytes())
    };
    let verdict = format!("Latest verdict{named}");
    let score = format!("Latest score{named}");
    let fake = format!("Fake in view{named}");
    vec![
        entity("sensor", "state", "State", "{{ value_json.state }}", json!({ "icon": "mdi:camera" })),
        entity(
            "sensor",
            "verdict",
            &verdict,
            "{{ value_json.verdict }}",
            json!({ "json_attributes_topic": topics.state, "icon": "mdi:account-check" }),
        ),
        entity(
            "sensor",
            "score",
            &score,
            "{{ value_json.mean_score }}",
            json!({ "state_class": "measurement", "suggested_display_precision": 2 }),
        ),
        entity(
            "sensor",
            "faces",
            "Faces in view",
            "{{ value_json.n_faces }}",
            json!({ "state_class": "measurement", "icon": "mdi:face-recognition" }),
        ),
        entity(
            "sensor",
            "temperature",
            "Temperature",
            "{{ value_json.temperature_c }}",
            json!({
                "device_class": "temperature",
                "unit_of_measurement": "°C",
                "state_class": "measurement",
                "entity_category": "diagnostic",
            }),
        ),
        entity(
            "binary_sensor",
            "fake",
            &fake,
            "{{ 'ON' if value_json.fake_in_view else 'OFF' }}",
            json!({ "device_class": "problem" }),
        ),
    ]
}
