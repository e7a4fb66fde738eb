//! Codes of requests and answers (RocketMQ: RequestCode, RocketMQ: ResponseCode,
//! RocketMQ: RemotingSysResponseCode).

/// Codes of requests that something here depends on.
pub(crate) mod request {
    pub(crate) const SEND_MESSAGE: i32 = 10;
    pub(crate) const PULL_MESSAGE: i32 = 11;
    pub(crate) const QUERY_MESSAGE: i32 = 12;
    pub(crate) const QUERY_CONSUMER_OFFSET: i32 = 14;
    pub(crate) const UPDATE_CONSUMER_OFFSET: i32 = 15;
    pub(crate) const GET_MAX_OFFSET: i32 = 30;
    pub(crate) const GET_MIN_OFFSET: i32 = 31;
    pub(crate) const VIEW_MESSAGE_BY_ID: i32 = 33;
    pub(crate) const HEART_BEAT: i32 = 34;
    pub(crate) const UNREGISTER_CLIENT: i32 = 35;
    pub(crate) const CONSUMER_SEND_MSG_BACK: i32 = 36;
    pub(crate) const END_TRANSACTION: i32 = 37;
    pub(crate) const GET_CONSUMER_LIST_BY_GROUP: i32 = 38;
    pub(crate) const CHECK_TRANSACTION_STATE: i32 = 39;
    pub(crate) const LOCK_BATCH_MQ: i32 = 41;
    pub(crate) const UNLOCK_BATCH_MQ: i32 = 42;
    pub(crate) const CHECK_CLIENT_CONFIG: i32 = 46;
    pub(crate) const GET_ROUTEINFO_BY_TOPIC: i32 = 105;
    pub(crate) const GET_BROKER_CLUSTER_INFO: i32 = 106;
    pub(crate) const GET_TOPIC_STATS_INFO: i32 = 202;
    pub(crate) const GET_ALL_TOPIC_LIST: i32 = 206;
    pub(crate) const GET_TOPICS_BY_CLUSTER: i32 = 224;
    pub(crate) const GET_SYSTEM_TOPIC_LIST: i32 = 304;
    pub(crate) const CONSUME_MESSAGE_DIRECTLY: i32 = 309;
    pub(crate) const SEND_MESSAGE_V2: i32 = 310;
    pub(crate) const SEND_BATCH_MESSAGE: i32 = 320;
    pub(crate) const SEND_REPLY_MESSAGE: i32 = 324;
    pub(crate) const SEND_REPLY_MESSAGE_V2: i32 = 325;
    pub(crate) const LITE_PULL_MESSAGE: i32 = 361;
    pub(crate) const QUERY_ASSIGNMENT: i32 = 400;
    pub(crate) const GET_BROKER_MEMBER_GROUP: i32 = 901;
    pub(crate) const POP_MESSAGE: i32 = 200_050;
    pub(crate) const PEEK_MESSAGE: i32 = 200_052;
    pub(crate) const NOTIFICATION: i32 = 200_054;
    pub(crate) const POLLING_INFO: i32 = 200_055;
    pub(crate) const BATCH_ACK_MESSAGE: i32 = 200_151;
}

/// Codes of answers that something here depends on.
pub(crate) mod answer {
    pub(crate) const SUCCESS: i32 = 0;
    pub(crate) const SYSTEM_ERROR: i32 = 1;
    pub(crate) const SYSTEM_BUSY: i32 = 2;
    pub(crate) const FLOW_CONTROL: i32 = 215;
    pub(crate) const MESSAGE_ILLEGAL: i32 = 13;
    pub(crate) const SERVICE_NOT_AVAILABLE: i32 = 14;
    pub(crate) const NO_PERMISSION: i32 = 16;
    pub(crate) const TOPIC_NOT_EXIST: i32 = 17;
    pub(crate) const PULL_NOT_FOUND: i32 = 19;
    pub(crate) const PULL_RETRY_IMMEDIATELY: i32 = 20;
    pub(crate) const PULL_OFFSET_MOVED: i32 = 21;
    pub(crate) const QUERY_NOT_FOUND: i32 = 22;
    pub(crate) const GROUP_NOT_EXIST: i32 = 26;
    pub(crate) const GO_AWAY: i32 = 1500;
}

use Use::{Administration, Brokers, Clients};

/// Who asks a request of a name server or a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Clients that send and consume, and whoever looks at what is there.
    Clients,
    /// Brokers and controllers among themselves.
    Brokers,
    /// Operators: it changes what others use, or takes it away.
    Administration,
}

/// Requests by code, with who asks them.
macro_rules! requests {
    ($($code:literal $name:literal $by:ident)*) => {
        fn request_of(code: i32) -> Option<(&'static str, Use)> {
            match code {
                $($code => Some(($name, $by)),)*
                _ => None,
            }
        }
    };
}

requests! {
    10 "SEND_MESSAGE" Clients
    11 "PULL_MESSAGE" Clients
    12 "QUERY_MESSAGE" Clients
    13 "QUERY_BROKER_OFFSET" Clients
    14 "QUERY_CONSUMER_OFFSET" Clients
    15 "UPDATE_CONSUMER_OFFSET" Clients
    17 "UPDATE_AND_CREATE_TOPIC" Administration
    18 "UPDATE_AND_CREATE_TOPIC_LIST" Administration
    21 "GET_ALL_TOPIC_CONFIG" Clients
    25 "UPDATE_BROKER_CONFIG" Administration
    26 "GET_BROKER_CONFIG" Clients
    27 "TRIGGER_DELETE_FILES" Administration
    28 "GET_BROKER_RUNTIME_INFO" Clients
    29 "SEARCH_OFFSET_BY_TIMESTAMP" Clients
    30 "GET_MAX_OFFSET" Clients
    31 "GET_MIN_OFFSET" Clients
    32 "GET_EARLIEST_MSG_STORETIME" Clients
    33 "VIEW_MESSAGE_BY_ID" Clients
    34 "HEART_BEAT" Clients
    35 "UNREGISTER_CLIENT" Clients
    36 "CONSUMER_SEND_MSG_BACK" Clients
    37 "END_TRANSACTION" Clients
    38 "GET_CONSUMER_LIST_BY_GROUP" Clients
    39 "CHECK_TRANSACTION_STATE" Clients
    40 "NOTIFY_CONSUMER_IDS_CHANGED" Clients
    41 "LOCK_BATCH_MQ" Clients
    42 "UNLOCK_BATCH_MQ" Clients
    43 "GET_ALL_CONSUMER_OFFSET" Clients
    45 "GET_ALL_DELAY_OFFSET" Clients
    46 "CHECK_CLIENT_CONFIG" Clients
    47 "GET_CLIENT_CONFIG" Clients
    50 "UPDATE_AND_CREATE_ACL_CONFIG" Administration
    51 "DELETE_ACL_CONFIG" Administration
    52 "GET_BROKER_CLUSTER_ACL_INFO" Clients
    53 "UPDATE_GLOBAL_WHITE_ADDRS_CONFIG" Administration
    100 "PUT_KV_CONFIG" Administration
    101 "GET_KV_CONFIG" Clients
    102 "DELETE_KV_CONFIG" Administration
    103 "REGISTER_BROKER" Brokers
    104 "UNREGISTER_BROKER" Brokers
    105 "GET_ROUTEINFO_BY_TOPIC" Clients
    106 "GET_BROKER_CLUSTER_INFO" Clients
    200 "UPDATE_AND_CREATE_SUBSCRIPTIONGROUP" Administration
    201 "GET_ALL_SUBSCRIPTIONGROUP_CONFIG" Clients
    202 "GET_TOPIC_STATS_INFO" Clients
    203 "GET_CONSUMER_CONNECTION_LIST" Clients
    204 "GET_PRODUCER_CONNECTION_LIST" Clients
    205 "WIPE_WRITE_PERM_OF_BROKER" Administration
    206 "GET_ALL_TOPIC_LIST_FROM_NAMESERVER" Clients
    207 "DELETE_SUBSCRIPTIONGROUP" Administration
    208 "GET_CONSUME_STATS" Clients
    209 "SUSPEND_CONSUMER" Administration
    210 "RESUME_CONSUMER" Administration
    211 "RESET_CONSUMER_OFFSET_IN_CONSUMER" Administration
    212 "RESET_CONSUMER_OFFSET_IN_BROKER" Administration
    213 "ADJUST_CONSUMER_THREAD_POOL" Administration
    214 "WHO_CONSUME_THE_MESSAGE" Clients
    215 "DELETE_TOPIC_IN_BROKER" Administration
    216 "DELETE_TOPIC_IN_NAMESRV" Administration
    217 "REGISTER_TOPIC_IN_NAMESRV" Administration
    219 "GET_KVLIST_BY_NAMESPACE" Clients
    220 "RESET_CONSUMER_CLIENT_OFFSET" Clients
    221 "GET_CONSUMER_STATUS_FROM_CLIENT" Clients
    222 "INVOKE_BROKER_TO_RESET_OFFSET" Administration
    223 "INVOKE_BROKER_TO_GET_CONSUMER_STATUS" Clients
    224 "GET_TOPICS_BY_CLUSTER" Clients
    225 "UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST" Administration
    300 "QUERY_TOPIC_CONSUME_BY_WHO" Clients
    301 "REGISTER_FILTER_SERVER" Administration
    302 "REGISTER_MESSAGE_FILTER_CLASS" Administration
    303 "QUERY_CONSUME_TIME_SPAN" Clients
    304 "GET_SYSTEM_TOPIC_LIST_FROM_NS" Clients
    305 "GET_SYSTEM_TOPIC_LIST_FROM_BROKER" Clients
    306 "CLEAN_EXPIRED_CONSUMEQUEUE" Administration
    307 "GET_CONSUMER_RUNNING_INFO" Clients
    308 "QUERY_CORRECTION_OFFSET" Clients
    309 "CONSUME_MESSAGE_DIRECTLY" Administration
    310 "SEND_MESSAGE_V2" Clients
    311 "GET_UNIT_TOPIC_LIST" Clients
    312 "GET_HAS_UNIT_SUB_TOPIC_LIST" Clients
    313 "GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST" Clients
    314 "CLONE_GROUP_OFFSET" Administration
    315 "VIEW_BROKER_STATS_DATA" Clients
    316 "CLEAN_UNUSED_TOPIC" Administration
    317 "GET_BROKER_CONSUME_STATS" Clients
    318 "UPDATE_NAMESRV_CONFIG" Administration
    319 "GET_NAMESRV_CONFIG" Clients
    320 "SEND_BATCH_MESSAGE" Clients
    321 "QUERY_CONSUME_QUEUE" Clients
    322 "QUERY_DATA_VERSION" Brokers
    323 "RESUME_CHECK_HALF_MESSAGE" Administration
    324 "SEND_REPLY_MESSAGE" Clients
    325 "SEND_REPLY_MESSAGE_V2" Clients
    326 "PUSH_REPLY_MESSAGE_TO_CLIENT" Clients
    327 "ADD_WRITE_PERM_OF_BROKER" Administration
    328 "GET_ALL_PRODUCER_INFO" Clients
    329 "DELETE_EXPIRED_COMMITLOG" Administration
    343 "QUERY_TOPICS_BY_CONSUMER" Clients
    345 "QUERY_SUBSCRIPTION_BY_CONSUMER" Clients
    351 "GET_TOPIC_CONFIG" Clients
    352 "GET_SUBSCRIPTIONGROUP_CONFIG" Clients
    353 "UPDATE_AND_GET_GROUP_FORBIDDEN" Administration
    361 "LITE_PULL_MESSAGE" Clients
    370 "RECALL_MESSAGE" Clients
    400 "QUERY_ASSIGNMENT" Clients
    401 "SET_MESSAGE_REQUEST_MODE" Administration
    402 "GET_ALL_MESSAGE_REQUEST_MODE" Clients
    513 "UPDATE_AND_CREATE_STATIC_TOPIC" Administration
    901 "GET_BROKER_MEMBER_GROUP" Clients
    902 "ADD_BROKER" Administration
    903 "REMOVE_BROKER" Administration
    904 "BROKER_HEARTBEAT" Brokers
    905 "NOTIFY_MIN_BROKER_ID_CHANGE" Administration
    906 "EXCHANGE_BROKER_HA_INFO" Administration
    907 "GET_BROKER_HA_STATUS" Clients
    908 "RESET_MASTER_FLUSH_OFFSET" Administration
    1001 "CONTROLLER_ALTER_SYNC_STATE_SET" Brokers
    1002 "CONTROLLER_ELECT_MASTER" Brokers
    1003 "CONTROLLER_REGISTER_BROKER" Brokers
    1008 "NOTIFY_BROKER_ROLE_CHANGED" Administration
    1009 "UPDATE_CONTROLLER_CONFIG" Administration
    1011 "CLEAN_BROKER_DATA" Administration
    1012 "CONTROLLER_GET_NEXT_BROKER_ID" Brokers
    1013 "CONTROLLER_APPLY_BROKER_ID" Brokers
    1014 "BROKER_CLOSE_CHANNEL_REQUEST" Brokers
    1018 "RAFT_BROKER_HEART_BEAT_EVENT_REQUEST" Brokers
    2001 "UPDATE_COLD_DATA_FLOW_CTR_CONFIG" Administration
    2002 "REMOVE_COLD_DATA_FLOW_CTR_CONFIG" Administration
    2004 "SET_COMMITLOG_READ_MODE" Administration
    3001 "AUTH_CREATE_USER" Administration
    3002 "AUTH_UPDATE_USER" Administration
    3003 "AUTH_DELETE_USER" Administration
    3004 "AUTH_GET_USER" Clients
    3005 "AUTH_LIST_USER" Clients
    3006 "AUTH_CREATE_ACL" Administration
    3007 "AUTH_UPDATE_ACL" Administration
    3008 "AUTH_DELETE_ACL" Administration
    3009 "AUTH_GET_ACL" Clients
    3010 "AUTH_LIST_ACL" Clients
    200_050 "POP_MESSAGE" Clients
    200_051 "ACK_MESSAGE" Clients
    200_052 "PEEK_MESSAGE" Clients
    200_053 "CHANGE_MESSAGE_INVISIBLETIME" Clients
    200_054 "NOTIFICATION" Clients
    200_055 "POLLING_INFO" Clients
    200_151 "BATCH_ACK_MESSAGE" Clients
}

/// Answers by code.
const ANSWERS: &[(i32, &str)] = &[
    (0, "SUCCESS"),
    (1, "SYSTEM_ERROR"),
    (2, "SYSTEM_BUSY"),
    (3, "REQUEST_CODE_NOT_SUPPORTED"),
    (4, "TRANSACTION_FAILED"),
    (10, "FLUSH_DISK_TIMEOUT"),
    (11, "SLAVE_NOT_AVAILABLE"),
    (12, "FLUSH_SLAVE_TIMEOUT"),
    (13, "MESSAGE_ILLEGAL"),
    (14, "SERVICE_NOT_AVAILABLE"),
    (15, "VERSION_NOT_SUPPORTED"),
    (16, "NO_PERMISSION"),
    (17, "TOPIC_NOT_EXIST"),
    (19, "PULL_NOT_FOUND"),
    (20, "PULL_RETRY_IMMEDIATELY"),
    (21, "PULL_OFFSET_MOVED"),
    (22, "QUERY_NOT_FOUND"),
    (23, "SUBSCRIPTION_PARSE_FAILED"),
    (24, "SUBSCRIPTION_NOT_EXIST"),
    (25, "SUBSCRIPTION_NOT_LATEST"),
    (26, "SUBSCRIPTION_GROUP_NOT_EXIST"),
    (206, "CONSUMER_NOT_ONLINE"),
    (208, "NO_MESSAGE"),
    (209, "POLLING_FULL"),
    (210, "POLLING_TIMEOUT"),
    (215, "FLOW_CONTROL"),
    (501, "NOT_LEADER_FOR_QUEUE"),
    (1500, "GO_AWAY"),
];

fn find(table: &[(i32, &'static str)], code: i32) -> Option<&'static str> {
    let found = table.iter().find(|(own, _)| *own == code);
    found.map(|(_, name)| *name)
}

/// What a request is called.
#[inline]
pub(crate) fn request_name(code: i32) -> Option<&'static str> {
    Some(request_of(code)?.0)
}

/// Who asks a request; a code that nobody knows may be anybody's.
#[inline]
pub(crate) fn asked_by(code: i32) -> Use {
    request_of(code).map_or(Use::Clients, |(_, by)| by)
}

/// What an answer's code is called.
#[must_use]
pub fn status_name(code: u16) -> Option<&'static str> {
    find(ANSWERS, i32::from(code))
}
