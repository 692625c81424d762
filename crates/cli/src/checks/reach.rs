//! How the container images of a control plane's Releases are had on this machine.

use std::sync::Arc;

use updraft_api::Client;
use updraft_image::registry::Credentials;
use updraft_image::{Engine, EngineName, Image, Login, Stop};
use updraft_model::ContainerImage;

use crate::failure::Result;

/// The user that goes with a token: the registry takes any.
const USER: &str = "updraft";

#[derive(Debug, Clone, Default)]
pub(crate) struct Reach {
    /// The control plane's registry, and who asks it.
    registry: Option<(String, Credentials)>,
    pub(crate) engine: Option<EngineName>,
    /// An image that is here under another name.
    local: Option<(ContainerImage, String)>,
}

impl Reach {
    pub(crate) fn of(client: &Client) -> Self {
        let address = client.address();
        let host = address.host_str().unwrap_or_default();
        let host = match address.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let credentials = client.token().map(|token| Credentials::Password {
            user: USER.to_owned(),
            password: token.to_owned(),
        });
        Self {
            registry: credentials.map(|credentials| (host, credentials)),
            ..Self::default()
        }
    }

    pub(crate) fn with_engine(self, engine: Option<EngineName>) -> Self {
        Self { engine, ..self }
    }

    /// Where an image is here already, however it is called.
    pub(crate) fn with_local(self, image: ContainerImage, id: String) -> Self {
        Self {
            local: Some((image, id)),
            ..self
        }
    }

    /// The host of the control plane's registry.
    pub(crate) fn host(&self) -> Option<&str> {
        self.registry.as_ref().map(|(host, _)| host.as_str())
    }

    /// Signs in to the control plane's registry; others know the engine by themselves.
    pub(crate) fn login(&self, registry: Option<&str>) -> Result<Option<Arc<Login>>> {
        match (&self.registry, registry) {
            (Some((host, credentials)), None) => Ok(Some(Arc::new(Login::new(host, credentials)?))),
            _ => Ok(None),
        }
    }

    /// A Release's image in an engine, pulled where it is not there. Blocks.
    pub(crate) fn image(
        &self,
        engine: &Engine,
        image: &ContainerImage,
        stop: &Stop,
        say: &dyn Fn(&str),
    ) -> Result<Image> {
        let local = self.local.as_ref().filter(|(named, _)| named == image);
        if let Some((_, id)) = local
            && let Some(found) = engine.inspect(id, stop)?
        {
            return Ok(found);
        }
        let name = image.seen_from(self.host().unwrap_or_default());
        let login = self.login(image.registry())?;
        Ok(engine.image_as(&name, login.as_deref(), stop, say)?)
    }
}
