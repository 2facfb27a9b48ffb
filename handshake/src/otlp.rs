//! Records on their way to a collector: a bounded queue, and batches in the JSON of OTLP/HTTP (OTLP 1.x, `/v1/logs`).

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::configuration::Otlp;

/// Records that wait for their batch.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: VecDeque<Value>,
}

impl Queue {
    /// Takes a record, or not if there is no room.
    pub fn push(&mut self, record: Value, settings: &Otlp) -> bool {
        let room = self.waiting.len() < settings.queue;
        if room {
            self.waiting.push_back(record);
        }
        room
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The oldest records, one batch of them.
    pub fn batch(&mut self, settings: &Otlp) -> Vec<Value> {
        let count = settings.batch.min(self.waiting.len());
        self.waiting.drain(..count).collect()
    }
}

/// The body of one call.
pub fn body(records: Vec<Value>, listener: &str, service: Option<&str>) -> String {
    let attribute = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    json!({"resourceLogs": [{
        "resource": {"attributes": [attribute("service.name", service.unwrap_or(listener))]},
        "scopeLogs": [{"scope": {"name": "outgate.handshake"}, "logRecords": records}],
    }]})
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_wait_in_order_and_not_without_end() {
        let settings = Otlp {
            cluster: "c".to_owned(),
            path: "/v1/logs".to_owned(),
            authority: None,
            batch: 2,
            queue: 3,
        };
        let mut queue = Queue::default();
        let taken: Vec<bool> = (0..5).map(|index| queue.push(json!(index), &settings)).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert_eq!(queue.batch(&settings), [json!(0), json!(1)]);
        assert_eq!((queue.len(), queue.batch(&settings)), (1, vec![json!(2)]));
        assert!(queue.is_empty() && queue.batch(&settings).is_empty());
    }

    #[test]
    fn a_batch_names_its_service() {
        let text = body(vec![json!({"eventName": "e"})], "mtls", Some("payments"));
        let value: Value = serde_json::from_str(&text).unwrap();
        let resource = &value["resourceLogs"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "payments");
        assert_eq!(resource["scopeLogs"][0]["logRecords"][0]["eventName"], "e");
    }
}
