//! What a sandbox may reach: the settings say how much there is, a request how much of it.

use std::str::FromStr;

use crate::{
    error::{Error, Result},
    sandbox::{DomainRule, HostRule, Network},
    settings::NetworkSettings,
};

/// What a request says about the network.
#[derive(Debug, Default, PartialEq)]
pub(super) struct NetworkWishes {
    pub(super) allow: Option<bool>,
    pub(super) ports: Option<Vec<u16>>,
    pub(super) domains: Option<Vec<String>>,
    pub(super) hosts: Option<Vec<String>>,
}

impl NetworkWishes {
    /// Whether it says nothing.
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl NetworkSettings {
    /// What the sandbox of a request may reach, and which private services beside that.
    ///
    /// # Errors
    ///
    /// `policy_denied` when the request asks for more than the settings allow.
    pub(super) fn grant(&self, wishes: NetworkWishes) -> Result<(Network, Vec<String>)> {
        let NetworkWishes { allow, ports, domains, hosts } = wishes;
        let lists = ports.is_some() || domains.is_some() || hosts.is_some();
        // Who says what to reach wants to reach it.
        let network = self.policy(allow.or(lists.then_some(true)))?;
        let (own_ports, own_domains) = match network {
            Network::None => return Ok((Network::None, Vec::new())),
            Network::Public => (None, None),
            Network::Listed { ports, domains } => (ports, domains),
        };
        let hosts = narrow("allowed_hosts", &self.allowed_hosts, hosts, |own, asked| {
            Ok(HostRule::from_str(own)?.covers(&HostRule::from_str(asked)?))
        })?;
        let domains = narrow("allowed_domains", &own_domains, domains, |own, asked| {
            let (own, asked) = (DomainRule::from_str(own)?, DomainRule::from_str(asked)?);
            // A port beside a name needs no entry in the ports; the settings must have one then.
            let port = asked.port.filter(|_| own.port.is_none());
            let known = |port: u16| own_ports.as_ref().is_none_or(|ports| ports.contains(&port));
            Ok(own.covers(&asked) && port.is_none_or(known))
        })?;
        let ports =
            narrow("allowed_ports", &own_ports, ports, |own, asked| Ok::<_, Error>(own == asked))?;
        let network = match (&ports, &domains) {
            (None, None) => Network::Public,
            _ => Network::Listed { ports, domains },
        };
        Ok((network, hosts.unwrap_or_default()))
    }

    /// What a sandbox may reach, given what the request says about it.
    pub(super) fn policy(&self, allow_network: Option<bool>) -> Result<Network> {
        if self.block_egress && allow_network == Some(true) {
            return Err(Error::denied("the settings block the network for every sandbox")
                .with_remedy(
                    "leave `allow_network` out; the key is `security.sandbox.network.block_egress`",
                ));
        }
        if self.block_egress || !allow_network.unwrap_or(self.allow_egress) {
            return Ok(Network::None);
        }
        if self.restrict_egress {
            return Ok(Network::Listed {
                ports: Some(self.allowed_ports.clone()),
                domains: self.allowed_domains.clone(),
            });
        }
        Ok(Network::Public)
    }
}

/// The list of the request, each of whose entries the settings' list must cover; the settings' own
/// list for a request without one. An absent list of the settings covers everything.
fn narrow<T: Clone + std::fmt::Display>(
    key: &str,
    own: &Option<Vec<T>>,
    asked: Option<Vec<T>>,
    covers: impl Fn(&T, &T) -> Result<bool>,
) -> Result<Option<Vec<T>>> {
    let Some(asked) = asked else { return Ok(own.clone()) };
    for one in asked.iter().filter(|_| own.is_some()) {
        let covered = own.iter().flatten().map(|own| covers(own, one));
        if !covered.collect::<Result<Vec<_>>>()?.contains(&true) {
            return Err(Error::denied(format!("the settings do not allow to reach `{one}`"))
                .with_remedy(format!("the key is `security.sandbox.network.{key}`")));
        }
    }
    Ok(Some(asked))
}
