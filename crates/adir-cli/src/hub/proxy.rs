//! Which proxy a connection goes through: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, and `NO_PROXY` for the exceptions.

use adir::{Error, Result};
use ureq::Proxy;

use super::access::variable;

/// The proxy to a host, by the variables.
///
/// # Errors
/// [`Error::Config`] if a variable names no proxy.
pub fn to(scheme: &str, host: &str, port: u16) -> Result<Option<Proxy>> {
    let either = |name: &str| variable(&name.to_lowercase()).or_else(|| variable(name));
    if either("NO_PROXY").is_some_and(|list| excepts(&list, host, port)) {
        return Ok(None);
    }
    let name = format!("{}_PROXY", scheme.to_uppercase());
    let Some(address) = either(&name).or_else(|| either("ALL_PROXY")) else { return Ok(None) };
    let address = if address.contains("://") { address } else { format!("http://{address}") };
    // The address may hold a password.
    Proxy::new(&address).map(Some).map_err(|e| Error::config(format!("the proxy in {name} or ALL_PROXY is none: {e}")))
}

/// Whether a list of hosts has this one: `*`, or names that end the host's, with or without a port.
fn excepts(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_matches(['[', ']']).to_lowercase();
    let covers = |entry: &str| {
        let entry = entry.to_lowercase();
        let entry = match entry.rsplit_once(':') {
            Some((name, digits)) if !name.contains(':') && digits.parse::<u16>().is_ok() => {
                if digits != port.to_string() {
                    return false;
                }
                name.to_owned()
            }
            _ => entry,
        };
        let entry = entry.trim_start_matches('*').trim_start_matches('.').trim_matches(['[', ']']);
        host == entry || (!entry.is_empty() && host.ends_with(&format!(".{entry}")))
    };
    list.split([',', ' ']).filter(|entry| !entry.is_empty()).any(|entry| entry == "*" || covers(entry))
}

#[cfg(test)]
mod tests {
    use super::excepts;

    #[test]
    fn exceptions_are_hosts_and_what_belongs_to_them() {
        for list in ["*", "a.org", "x.org, .A.org", "*.a.org", "org", "x,hub.a.org:443", "hub.a.org"] {
            assert!(excepts(list, "hub.a.org", 443), "{list}");
        }
        for list in ["", ",", "b.org", "ub.a.org", "hub.a.org:80", "a.org.b", "1.hub.a.org"] {
            assert!(!excepts(list, "hub.a.org", 443), "{list}");
        }
        assert!(excepts("127.0.0.1", "127.0.0.1", 80) && excepts("::1", "[::1]", 80));
    }
}
