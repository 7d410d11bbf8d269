"""Which event source and which IAM prefix a service goes by."""

from functools import cache

from . import sources

# Event source = IAM prefix, except these. Learnt from CloudTrail records and IAM's own documentation.
_SOURCE_OF_PREFIX = {
    "applicationinsights": "application-insights",
    "application-autoscaling": "autoscaling",
    "cloudwatch": "monitoring",
    "mgh": "migrationhub",
    "mobiletargeting": "pinpoint",
    "mq": "amazonmq",
    "pricing": "pricelist",
    "rds-data": "rdsdata",
    "tag": "tagging",
    "wisdom": "qconnect",
}
_SOURCE_OF_SERVICE = {
    "cloudcontrol": "cloudcontrolapi",
    "servicecatalog-appregistry": "servicecatalog-appregistry",
    "marketplace-catalog": "marketplacecatalog",
    "resourcegroupstaggingapi": "tagging",
    "connect-contact-lens": "contact-lens",
    "dynamodbstreams": "dynamodb",
    "lexv2-models": "lex",
    "sms-voice": "sms-voice",
    "chime-sdk-voice": "chime-sdk-voice",
    "chime-sdk-media-pipelines": "chime-sdk-media-pipelines",
}
_PREFIX_OF_SERVICE = {
    "applicationcostprofiler": "application-cost-profiler",
    "cloudcontrol": "cloudformation",
    "cloudwatch": "cloudwatch",
    "entitlement.marketplace": "aws-marketplace",
    "iot-data": "iot",
    "iotsecuretunneling": "iot",
    "marketplacecommerceanalytics": "marketplacecommerceanalytics",
    "meteringmarketplace": "aws-marketplace",
    "pinpoint-email": "ses",
    "resourcegroupstaggingapi": "tag",
    "sms-voice": "sms-voice",
    "stepfunctions": "states",
}
# Their calls have the event source and the names of another service's: the other one is read.
TWINS = frozenset(("docdb", "neptune", "pinpoint-email", "s3control", "iot1click-projects", "elasticache-beta"))
# Calls on data, models and sessions: they change no asset.
DATA = frozenset(
    "lex-runtime lexv2-runtime runtime.lex.v2 sagemaker-runtime sagemaker-runtime-http2 bedrock-runtime"
    " bedrock-agent-runtime iot-data iot-jobs-data rds-data redshift-data cloudsearchdomain dynamodbstreams"
    " kinesis-video-media kinesis-video-archived-media kinesis-video-signaling kinesis-video-webrtc-storage"
    " mediastore-data personalize-runtime personalize-events qldb-session sagemaker-a2i-runtime"
    " sagemaker-featurestore-runtime sagemaker-geospatial sagemaker-metrics workmailmessageflow"
    " apigatewaymanagementapi iotevents-data polly textract ebs"
    " ec2-instance-connect cognito-sync sdb marketplace-entitlement meteringmarketplace cloudtrail-data"
    " connectparticipant appconfigdata pi forecastquery iot1click-devices snow-device-management neptunedata"
    " bedrock-data-automation-runtime sts sso-oidc signin connect-contact-lens"
    " chime-sdk-meetings chime-sdk-messaging keyspacesstreams kendra-ranking geo-maps geo-places geo-routes"
    " mturk support health workdocs inspector-scan lambda-microvm eks-auth".split()
)
DATA_SUFFIXES = ("-data", "runtime", "-events", "-metrics", "-streaming")


@cache
def prefix(service):
    """The IAM prefix of a service (botocore's name)."""
    if service in _PREFIX_OF_SERVICE:
        return _PREFIX_OF_SERVICE[service]
    metadata = sources.services()[service]["metadata"]
    signing = metadata.get("signingName") or metadata["endpointPrefix"]
    known = sources.iam_actions()
    return next((name for name in (signing, service, metadata["endpointPrefix"]) if name in known), signing)


@cache
def services_of(name):
    """The services that go by an IAM prefix."""
    return [service for service in sources.services() if prefix(service) == name and service not in TWINS]


def event_source(service):
    name = prefix(service)
    host = _SOURCE_OF_SERVICE.get(service) or _SOURCE_OF_PREFIX.get(name) or name
    return f"{host.lower()}.amazonaws.com"


def is_data(service):
    return service in DATA or (service.endswith(DATA_SUFFIXES) and service != "cloudtrail-data")
