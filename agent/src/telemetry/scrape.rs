//! The HTTP side of the metrics: `GET /metrics` and nothing else.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use tokio::net::TcpListener;

use crate::serve::web::{self, Limits};

/// A Prometheus, its twin, and a curious person.
const LIMITS: Limits = Limits { connections_max: 8, deadline: Duration::from_secs(5) };

/// Makes the exposition. Called for each scrape; must not wait.
pub type Exposition = Arc<dyn Fn() -> String + Send + Sync>;

/// Answers scrapes until the runtime ends.
pub async fn serve(listener: TcpListener, exposition: Exposition) {
    web::serve(listener, None, LIMITS, Arc::new(move |request| respond(request, &exposition))).await;
}

fn respond(request: &Request<Incoming>, exposition: &Exposition) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            web::response(StatusCode::OK, "text/plain; version=0.0.4", exposition())
        }
        (_, "/metrics") => web::response(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n"),
        _ => web::response(StatusCode::NOT_FOUND, "text/plain", "metrics are at /metrics\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::web::ask;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn only_a_scrape_is_answered_and_silence_stops_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(|| "holdfast_x 1\n".to_owned())));
        let mut silent = Vec::new();
        for _ in 1..LIMITS.connections_max {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let scrape = ask(address, "GET /metrics HTTP/1.1").await;
        assert!(
            scrape.starts_with("HTTP/1.1 200 OK\r\n") && scrape.ends_with("\r\n\r\nholdfast_x 1\n"),
            "{scrape}"
        );
        assert!(scrape.contains("content-type: text/plain; version=0.0.4"), "{scrape}");
        assert!(ask(address, "POST /metrics HTTP/1.1").await.starts_with("HTTP/1.1 405"));
        assert!(ask(address, "GET / HTTP/1.1").await.starts_with("HTTP/1.1 404"));
        server.abort();
    }
}
