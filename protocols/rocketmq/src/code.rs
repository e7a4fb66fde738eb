//! Codes of requests and answers: Java's `RequestCode`, `ResponseCode`, `RemotingSysResponseCode`.

/// Codes of requests that something here depends on.
pub(crate) mod request {
    pub(crate) const SEND_MESSAGE: i32 = 10;
    pub(crate) const PULL_MESSAGE: i32 = 11;
    pub(crate) const END_TRANSACTION: i32 = 37;
    pub(crate) const REGISTER_BROKER: i32 = 103;
    pub(crate) const UNREGISTER_BROKER: i32 = 104;
    pub(crate) const GET_ROUTEINFO_BY_TOPIC: i32 = 105;
    pub(crate) const GET_BROKER_CLUSTER_INFO: i32 = 106;
    pub(crate) const GET_ALL_TOPIC_LIST: i32 = 206;
    pub(crate) const GET_TOPICS_BY_CLUSTER: i32 = 224;
    pub(crate) const GET_SYSTEM_TOPIC_LIST: i32 = 304;
    pub(crate) const SEND_MESSAGE_V2: i32 = 310;
    pub(crate) const SEND_BATCH_MESSAGE: i32 = 320;
    pub(crate) const SEND_REPLY_MESSAGE: i32 = 324;
    pub(crate) const SEND_REPLY_MESSAGE_V2: i32 = 325;
    pub(crate) const QUERY_DATA_VERSION: i32 = 322;
    pub(crate) const LITE_PULL_MESSAGE: i32 = 361;
    pub(crate) const GET_BROKER_MEMBER_GROUP: i32 = 901;
    pub(crate) const BROKER_HEARTBEAT: i32 = 904;
    pub(crate) const POP_MESSAGE: i32 = 200_050;
    pub(crate) const NOTIFICATION: i32 = 200_054;
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
    pub(crate) const GO_AWAY: i32 = 1500;
}

/// Requests by code.
const REQUESTS: &[(i32, &str)] = &[
    (10, "SEND_MESSAGE"),
    (11, "PULL_MESSAGE"),
    (12, "QUERY_MESSAGE"),
    (14, "QUERY_CONSUMER_OFFSET"),
    (15, "UPDATE_CONSUMER_OFFSET"),
    (17, "UPDATE_AND_CREATE_TOPIC"),
    (29, "SEARCH_OFFSET_BY_TIMESTAMP"),
    (30, "GET_MAX_OFFSET"),
    (31, "GET_MIN_OFFSET"),
    (32, "GET_EARLIEST_MSG_STORETIME"),
    (33, "VIEW_MESSAGE_BY_ID"),
    (34, "HEART_BEAT"),
    (35, "UNREGISTER_CLIENT"),
    (36, "CONSUMER_SEND_MSG_BACK"),
    (37, "END_TRANSACTION"),
    (38, "GET_CONSUMER_LIST_BY_GROUP"),
    (39, "CHECK_TRANSACTION_STATE"),
    (40, "NOTIFY_CONSUMER_IDS_CHANGED"),
    (41, "LOCK_BATCH_MQ"),
    (42, "UNLOCK_BATCH_MQ"),
    (46, "CHECK_CLIENT_CONFIG"),
    (100, "PUT_KV_CONFIG"),
    (101, "GET_KV_CONFIG"),
    (102, "DELETE_KV_CONFIG"),
    (103, "REGISTER_BROKER"),
    (104, "UNREGISTER_BROKER"),
    (105, "GET_ROUTEINFO_BY_TOPIC"),
    (106, "GET_BROKER_CLUSTER_INFO"),
    (200, "UPDATE_AND_CREATE_SUBSCRIPTIONGROUP"),
    (206, "GET_ALL_TOPIC_LIST_FROM_NAMESERVER"),
    (219, "GET_KVLIST_BY_NAMESPACE"),
    (220, "RESET_CONSUMER_CLIENT_OFFSET"),
    (221, "GET_CONSUMER_STATUS_FROM_CLIENT"),
    (224, "GET_TOPICS_BY_CLUSTER"),
    (304, "GET_SYSTEM_TOPIC_LIST_FROM_NS"),
    (307, "GET_CONSUMER_RUNNING_INFO"),
    (309, "CONSUME_MESSAGE_DIRECTLY"),
    (310, "SEND_MESSAGE_V2"),
    (320, "SEND_BATCH_MESSAGE"),
    (322, "QUERY_DATA_VERSION"),
    (324, "SEND_REPLY_MESSAGE"),
    (325, "SEND_REPLY_MESSAGE_V2"),
    (326, "PUSH_REPLY_MESSAGE_TO_CLIENT"),
    (361, "LITE_PULL_MESSAGE"),
    (370, "RECALL_MESSAGE"),
    (400, "QUERY_ASSIGNMENT"),
    (401, "SET_MESSAGE_REQUEST_MODE"),
    (901, "GET_BROKER_MEMBER_GROUP"),
    (904, "BROKER_HEARTBEAT"),
    (200_050, "POP_MESSAGE"),
    (200_051, "ACK_MESSAGE"),
    (200_052, "PEEK_MESSAGE"),
    (200_053, "CHANGE_MESSAGE_INVISIBLETIME"),
    (200_054, "NOTIFICATION"),
    (200_055, "POLLING_INFO"),
    (200_151, "BATCH_ACK_MESSAGE"),
];

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
pub(crate) fn request_name(code: i32) -> Option<&'static str> {
    find(REQUESTS, code)
}

/// What an answer's code is called.
#[must_use]
pub fn status_name(code: u16) -> Option<&'static str> {
    find(ANSWERS, i32::from(code))
}
