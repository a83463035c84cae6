# Who is told, and of what. A mailbox has to confirm that it wants to be told: AWS writes to it once.

locals {
  edge     = { LoadBalancer = module.edge.balancer }
  target   = merge(local.edge, { TargetGroup = module.edge.target_group })
  tasks    = { ClusterName = module.compute.cluster.name, ServiceName = module.compute.service.name }
  database = { DBInstanceIdentifier = module.database.instance }
  # metric: what is measured, by whom, of what; statistic; when it is too much (or, with `below`, too little).
  alarms = merge({
    errors          = { metric = "HTTPCode_Target_5XX_Count", namespace = "AWS/ApplicationELB", of = local.edge, statistic = "Sum", limit = 10 }
    balancer-errors = { metric = "HTTPCode_ELB_5XX_Count", namespace = "AWS/ApplicationELB", of = local.edge, statistic = "Sum", limit = 10 }
    latency         = { metric = "TargetResponseTime", namespace = "AWS/ApplicationELB", of = local.edge, statistic = "p99", limit = 1 }
    not-ready       = { metric = "UnHealthyHostCount", namespace = "AWS/ApplicationELB", of = local.target, statistic = "Maximum", limit = 0 }
    none-ready      = { metric = "HealthyHostCount", namespace = "AWS/ApplicationELB", of = local.target, statistic = "Minimum", limit = 1, below = true, missing = "breaching" }
    tasks-cpu       = { metric = "CPUUtilization", namespace = "AWS/ECS", of = local.tasks, statistic = "Average", limit = 85 }
    tasks-memory    = { metric = "MemoryUtilization", namespace = "AWS/ECS", of = local.tasks, statistic = "Maximum", limit = 85 }
    database-cpu    = { metric = "CPUUtilization", namespace = "AWS/RDS", of = local.database, statistic = "Average", limit = 85 }
    database-disk   = { metric = "FreeStorageSpace", namespace = "AWS/RDS", of = local.database, statistic = "Minimum", limit = 2147483648, below = true }
    database-memory = { metric = "FreeableMemory", namespace = "AWS/RDS", of = local.database, statistic = "Minimum", limit = 67108864, below = true }
    backups         = { metric = "BackupsMade", namespace = local.name, of = {}, statistic = "Sum", limit = 1, below = true, missing = "breaching", period = 3600, periods = 26 }
    certificate     = { metric = "DaysToExpiry", namespace = "AWS/CertificateManager", of = { CertificateArn = module.edge.certificate_arn }, statistic = "Minimum", limit = 21, below = true, period = 86400, periods = 1 }
  }, local.shared_store.alarms)
}

resource "aws_sns_topic" "alarms" {
  name              = "${local.name}-alarms"
  kms_master_key_id = var.secrets.key_arn
}

resource "aws_sns_topic_subscription" "mail" {
  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = local.answers.contact_email
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  alarm_name          = "${local.name}-${each.key}"
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.of
  statistic           = startswith(each.value.statistic, "p") ? null : each.value.statistic
  extended_statistic  = startswith(each.value.statistic, "p") ? each.value.statistic : null
  comparison_operator = try(each.value.below, false) ? "LessThanThreshold" : "GreaterThanThreshold"
  threshold           = each.value.limit
  period              = try(each.value.period, 60)
  evaluation_periods  = try(each.value.periods, 5)
  # Nobody asks at night, and then there is nothing to measure; but no task at all, or no backup, is no silence.
  treat_missing_data = try(each.value.missing, "notBreaching")
  alarm_actions      = [aws_sns_topic.alarms.arn]
  ok_actions         = [aws_sns_topic.alarms.arn]
}

# What `chassis backup` says when it has one.
resource "aws_cloudwatch_log_metric_filter" "backups" {
  name           = "${local.name}-backups"
  log_group_name = module.compute.log_group.name
  pattern        = "{ $.event = \"backup made\" }"
  metric_transformation {
    namespace = local.name
    name      = "BackupsMade"
    value     = "1"
  }
}

# Of the whole account: what nobody has tagged costs as well.
resource "aws_budgets_budget" "this" {
  name         = local.name
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = var.monthly_budget_usd
  limit_unit   = "USD"
  dynamic "notification" {
    for_each = { ACTUAL = 80, FORECASTED = 100 }
    content {
      notification_type          = notification.key
      comparison_operator        = "GREATER_THAN"
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = [local.answers.contact_email]
    }
  }
}
