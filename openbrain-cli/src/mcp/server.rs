//! What every client is told, and which tool a call goes to.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use openbrain::Settings;
use rmcp::{
    RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestMethod, CallToolRequestParams, CallToolResponse, CallToolResult,
        ConstString, CustomRequest, CustomResult, DiscoverResult, ErrorCode, ErrorData,
        Implementation, InitializeRequestParams, InitializeResult, JsonObject, ListToolsResult,
        PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
};
use tracing::debug;

use super::{
    approval::Approvals,
    call::Call,
    failure::Failure,
    instructions,
    report::Answer,
    sandbox_report::SandboxAnswer,
    session::{Session, Sessions},
    tools::{self, EXEC_COMMAND, EXEC_INPUT, EXEC_KILL, EXEC_OUTPUT},
};
use crate::service::Service;

/// How long a client may remember what the server tells of itself, which changes only with the
/// settings, and these with a restart: five minutes.
const TTL_MS: u64 = 300_000;

/// What all clients of a server have in common.
#[derive(Debug)]
pub(super) struct Core {
    service: Arc<Service>,
    tools: Vec<Tool>,
    info: ServerConfig,
    approvals: Approvals,
    sessions: Sessions,
}

/// The server as one client meets it, or as one request does that belongs to no session.
#[derive(Clone, Debug)]
pub(super) struct Server {
    core: Arc<Core>,
    session: OnceLock<Arc<Session>>,
}

impl Core {
    /// Looks at what this machine gives, so that clients can be told.
    pub(super) async fn new(service: Arc<Service>) -> io::Result<Arc<Self>> {
        let settings = service.settings();
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        let us =
            Implementation::new("openbrain", env!("CARGO_PKG_VERSION")).with_title("openbrain");
        let info = ServerConfig::new(capabilities)
            .with_server_info(us)
            .with_instructions(instructions::of(settings).await);
        Ok(Arc::new(Self {
            tools: tools::list(settings),
            info,
            approvals: Approvals::new()?,
            sessions: Sessions::default(),
            service,
        }))
    }

    pub(super) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    pub(super) fn settings(&self) -> &Settings {
        self.service.settings()
    }
}

impl Server {
    /// A server for whoever comes.
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core, session: OnceLock::new() }
    }

    /// A server for one client that stays connected.
    pub(super) fn connected(core: Arc<Core>, session: Arc<Session>) -> Self {
        Self { core, session: OnceLock::from(session) }
    }

    pub(super) fn service(&self) -> &Arc<Service> {
        &self.core.service
    }

    pub(super) fn approvals(&self) -> &Approvals {
        &self.core.approvals
    }

    /// The schema of a tool's arguments.
    pub(super) fn input_schema(&self, name: &str) -> &JsonObject {
        // The names are ours, and a tool that is called is in the list.
        static NONE: OnceLock<JsonObject> = OnceLock::new();
        let tool = self.core.tools.iter().find(|tool| tool.name == name);
        tool.map_or_else(|| NONE.get_or_init(JsonObject::new), |tool| &tool.input_schema)
    }

    /// The call, and the session that it belongs to. Those of HTTP learn their id here: when they
    /// begin it is not known yet.
    fn call(&self, context: RequestContext<RoleServer>) -> Call {
        let call = Call::new(context, self.session.get().cloned());
        let id = call.parts().and_then(|parts| parts.headers.get("mcp-session-id"));
        if let (Some(session), Some(id)) = (&call.session, id.and_then(|id| id.to_str().ok())) {
            self.core.sessions.remember(id, session);
        }
        call
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        self.core.info.clone()
    }

    /// Begins a session: only revisions before 2026-07-28 do that.
    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        self.session.get_or_init(Arc::default);
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    async fn discover(&self, _: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let versions = self.supported_protocol_versions().into_owned();
        let result = DiscoverResult::from_server_info(versions, self.get_info());
        Ok(result.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let result = ListToolsResult::with_all_items(self.core.tools.clone());
        Ok(result.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.core.tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn call_tool(
        &self,
        params: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        debug!(tool = %params.name, request = %context.id, "tool called");
        let call = self.call(context);
        let arguments = params.arguments.clone();
        let answer: Result<Answer, Failure> = match params.name.as_ref() {
            EXEC_COMMAND => return self.exec_command(params, call).await,
            EXEC_OUTPUT => self.exec_output(arguments, &call).await,
            EXEC_INPUT => self.exec_input(arguments, &call).await,
            EXEC_KILL => self.exec_kill(arguments).await,
            name => {
                if let Some(answer) = self.sandbox_tool(name, arguments, &call).await {
                    return Ok(SandboxAnswer::result(answer).into());
                }
                let message = format!("there is no tool `{name}`");
                return Err(ErrorData::invalid_params(message, None));
            }
        };
        Ok(CallToolResult::from(answer.unwrap_or_else(Answer::failed)).into())
    }

    /// What rmcp could not read as a request that it knows.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let method = request.method;
        if method == CallToolRequestMethod::VALUE {
            let message = "`tools/call` needs `name`, and `arguments` as an object";
            return Err(ErrorData::invalid_params(message, None));
        }
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, format!("there is no `{method}`"), None))
    }
}
