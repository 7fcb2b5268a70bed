//! What the zones' own name servers say: before the CA is told to look, and when somebody asks what is wrong.

mod broken_zones;
mod confirming;
mod findings;
mod hostile_zones;

use countersign_tests::api_client::ApiClient;
use reqwest::Method;
use serde_json::Value;

async fn diagnosis(api: &ApiClient, domain_id: &str) -> Value {
    let request = api.request(Method::GET, &format!("/domains/{domain_id}/diagnosis"));
    api.send(request).await.unwrap().expect(200)
}

/// Codes of errors and warnings, or of everything where nothing is wrong; each once.
fn codes(diagnosis: &Value) -> Vec<String> {
    let all = diagnosis["findings"].as_array().unwrap();
    let is_wrong = |finding: &&Value| finding["severity"] != "info";
    let wrong: Vec<&Value> = all.iter().filter(is_wrong).collect();
    let told = if wrong.is_empty() { all.iter().collect() } else { wrong };
    let mut codes: Vec<String> = told.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect();
    codes.dedup();
    codes
}
