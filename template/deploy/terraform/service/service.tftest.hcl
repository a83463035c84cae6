# `terraform test`, without an account: what must never be lost on the way to a real one. Nothing here is created.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "111111111111" }
  }
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_data "aws_secretsmanager_secret_version" {
    defaults = { secret_string = "xxxxxxxxxxxxxxxx" }
  }
  mock_resource "aws_acm_certificate" {
    defaults = {
      arn = "arn:aws:acm:eu-central-1:111111111111:certificate/mock"
      domain_validation_options = [{
        domain_name           = "api.example.com"
        resource_record_name  = "_mock.api.example.com"
        resource_record_type  = "CNAME"
        resource_record_value = "_mock.acm-validations.aws"
      }]
    }
  }
  mock_resource "aws_acm_certificate_validation" {
    defaults = { certificate_arn = "arn:aws:acm:eu-central-1:111111111111:certificate/mock" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:111111111111:log-group:mock" }
  }
  mock_resource "aws_lb" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111111111111:loadbalancer/app/mock/1" }
  }
  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:111111111111:targetgroup/mock/1" }
  }
  mock_resource "aws_ecs_cluster" {
    defaults = { arn = "arn:aws:ecs:eu-central-1:111111111111:cluster/mock" }
  }
  mock_resource "aws_ecs_task_definition" {
    defaults = { arn_without_revision = "arn:aws:ecs:eu-central-1:111111111111:task-definition/mock" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::111111111111:role/mock" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:111111111111:mock" }
  }
  mock_resource "aws_wafv2_web_acl" {
    defaults = { arn = "arn:aws:wafv2:eu-central-1:111111111111:regional/webacl/mock/1" }
  }
}

variables {
  name    = "shop-production"
  key_arn = "arn:aws:kms:eu-central-1:111111111111:key/mock"
  vpc_id  = "vpc-1"
  subnets = ["subnet-1", "subnet-2"]

  environment = "production"
  production  = true
  protected   = true
  secrets = {
    arns     = { app_secret_key = "arn:key", app_smoke_password = "arn:smoke", database_app = "arn:app", database_backup = "arn:backup", database_migrator = "arn:migrator", valkey = "arn:valkey" }
    versions = { app_secret_key = 1, app_smoke_password = 1, database_app = 1, database_backup = 1, database_migrator = 1, valkey = 1 }
    key_arn  = "arn:aws:kms:eu-central-1:111111111111:key/mock"
  }
  passwords          = { database_app = "one", database_backup = "two", database_migrator = "three" }
  backup_recipients  = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
  zones              = ["eu-central-1a", "eu-central-1b"]
  domain             = "api.example.com"
  zone_id            = "Z1"
  mail_from          = "no-reply@example.com"
  github_subject     = "repo:example-org@1/my-service@2"
  tasks              = { cpu = 256, memory = 512, min = 2, max = 4 }
  database_class     = "db.t4g.micro"
  database_gigabytes = 20
  monthly_budget_usd = 100
}

run "whole" {
  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_actions == toset([aws_sns_topic.alarms.arn])])
    error_message = "An alarm that tells nobody."
  }
  assert {
    condition     = alltrue([for sent in aws_budgets_budget.this.notification : length(sent.subscriber_email_addresses) == 1])
    error_message = "A budget that tells nobody."
  }
  assert {
    condition     = aws_ecr_repository.this.image_tag_mutability == "IMMUTABLE" && aws_ecr_repository.this.encryption_configuration[0].encryption_type == "KMS"
    error_message = "Images that can be exchanged, or are not encrypted."
  }
  assert {
    condition     = !contains(keys(local.secrets), "MIGRATOR_DATABASE_URL") && !contains(keys(local.secrets), "APP_BACKUP_IDENTITY")
    error_message = "The server is not to have the migrator's address."
  }
  assert {
    condition     = !contains(keys(local.secrets), "APP_SMOKE_PASSWORD") && output.smoke.password_secret == "arn:smoke"
    error_message = "Who makes the accounts of the smoke test has their password, and the server has not."
  }
  assert {
    condition     = output.smoke.emails == replace("smoke-a-KEY@example.com,smoke-b-KEY@example.com", "KEY", substr(sha256("${var.secrets.key_arn} 1"), 0, 16))
    error_message = "Who can guess the addresses of the smoke test can lock them out."
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.this["backups"].treat_missing_data == "breaching" && aws_cloudwatch_metric_alarm.this["backups"].period * aws_cloudwatch_metric_alarm.this["backups"].evaluation_periods == 26 * 3600
    error_message = "A day without a backup must be heard of."
  }
  assert {
    condition     = aws_cloudwatch_log_metric_filter.backups.log_group_name == module.compute.log_group.name
    error_message = "Backups are counted where only tasks that run once can write."
  }
  assert {
    condition     = length(local.secrets) == (local.answers.valkey ? 4 : 3) && contains(keys(local.alarms), "valkey-memory") == local.answers.valkey
    error_message = "There is a Valkey if that was the answer, the service knows it, and somebody watches it."
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.this["backups"].metric_name == aws_cloudwatch_log_metric_filter.backups.metric_transformation[0].name && aws_cloudwatch_metric_alarm.this["backups"].namespace == aws_cloudwatch_log_metric_filter.backups.metric_transformation[0].namespace
    error_message = "The alarm must count what the log says of backups."
  }
  assert {
    condition     = local.variables["APP_TRUSTED_PROXIES"] == "10.20.0.0/24,10.20.1.0/24"
    error_message = "The service is to believe the load balancer's networks, and no others."
  }
}

run "a_subject_for_every_repository" {
  command = plan
  variables {
    github_subject = "repo:example-org/*"
  }
  expect_failures = [var.github_subject]
}

run "a_subject_for_every_branch" {
  command = plan
  variables {
    github_subject = "repo:example-org/my-service:ref:*"
  }
  expect_failures = [var.github_subject]
}

run "a_subject_with_half_of_its_numbers" {
  command = plan
  variables {
    github_subject = "repo:example-org@1/my-service"
  }
  expect_failures = [var.github_subject]
}

run "a_backup_for_a_private_key" {
  command = plan
  variables {
    backup_recipients = ["AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ"]
  }
  expect_failures = [var.backup_recipients]
}

run "a_backup_for_nobody" {
  command = plan
  module {
    source = "./compute"
  }
  variables {
    variables               = {}
    secrets                 = {}
    migrator_secrets        = { MIGRATOR_DATABASE_URL = "arn:migrator" }
    backup                  = { recipients = [], database_url = "arn:backup", identity = "arn:identity", bucket = { name = "backups", arn = "arn:aws:s3:::backups" } }
    image                   = "registry/shop:none"
    balancer_security_group = "sg-balancer"
    target_group_arn        = "arn:aws:elasticloadbalancing:eu-central-1:111111111111:targetgroup/mock/1"
    stores                  = {}
  }
  expect_failures = [aws_scheduler_schedule.backup]
}

run "an_environment_that_nobody_knows" {
  command = plan
  variables {
    environment = "prod"
  }
  expect_failures = [var.environment]
}

run "database_in_production" {
  module {
    source = "./database"
  }
  variables {
    package              = "shop"
    tasks_security_group = "sg-tasks"
    class                = "db.t4g.micro"
    gigabytes            = 20
    versions             = { database_app = 1, database_backup = 1, database_migrator = 1 }
  }
  assert {
    condition     = aws_db_instance.this.multi_az
    error_message = "Production needs a second server in another zone."
  }
  assert {
    condition     = aws_db_instance.this.storage_encrypted && aws_db_instance.this.kms_key_id == var.key_arn
    error_message = "The disk is to be encrypted, with the environment's key."
  }
  assert {
    condition     = !aws_db_instance.this.publicly_accessible
    error_message = "The database must not have a public address."
  }
  assert {
    condition     = aws_db_instance.this.deletion_protection && !aws_db_instance.this.skip_final_snapshot && !aws_db_instance.this.delete_automated_backups
    error_message = "The database and its backups must not go with one command."
  }
  assert {
    condition     = aws_db_instance.this.backup_retention_period >= 7
    error_message = "A week, to any second of it, is the least."
  }
  assert {
    condition     = one([for parameter in aws_db_parameter_group.this.parameter : parameter.value if parameter.name == "rds.force_ssl"]) == "1"
    error_message = "The database must refuse a connection without TLS."
  }
  assert {
    condition     = startswith(aws_db_parameter_group.this.family, "postgres18") && startswith(aws_db_instance.this.engine_version, "18")
    error_message = "Development and tests have PostgreSQL 18."
  }
  assert {
    condition     = length(aws_cloudwatch_log_group.this) == 2 && alltrue([for group in aws_cloudwatch_log_group.this : group.kms_key_id == var.key_arn && group.retention_in_days == 365]) && toset(values(aws_cloudwatch_log_group.this)[*].name) == toset([for log in aws_db_instance.this.enabled_cloudwatch_logs_exports : "/aws/rds/instance/${aws_db_instance.this.identifier}/${log}"])
    error_message = "The database's logs are to be encrypted with the environment's key, and to end."
  }
  assert {
    condition     = strcontains(local.address, "sslmode=verify-full&sslrootcert=/app/rds-ca.crt")
    error_message = "The service must know that it is this database that it speaks to."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.tasks.referenced_security_group_id == "sg-tasks" && aws_vpc_security_group_ingress_rule.tasks.from_port == 5432
    error_message = "Only the tasks may reach the database."
  }
}

run "database_in_staging" {
  module {
    source = "./database"
  }
  variables {
    production           = false
    package              = "shop"
    tasks_security_group = "sg-tasks"
    class                = "db.t4g.micro"
    gigabytes            = 20
    versions             = { database_app = 1, database_backup = 1, database_migrator = 1 }
  }
  assert {
    condition     = !aws_db_instance.this.multi_az && aws_db_instance.this.backup_retention_period >= 7 && aws_db_instance.this.deletion_protection
    error_message = "Staging has one server, and all else that production has."
  }
}

run "database_where_its_authority_is_not_known" {
  command = plan
  module {
    source = "./database"
  }
  override_data {
    target = data.aws_region.this
    values = { name = "us-gov-west-1" }
  }
  variables {
    package              = "shop"
    tasks_security_group = "sg-tasks"
    class                = "db.t4g.micro"
    gigabytes            = 20
    versions             = { database_app = 1, database_backup = 1, database_migrator = 1 }
  }
  expect_failures = [aws_db_instance.this]
}

run "edge" {
  module {
    source = "./edge"
  }
  variables {
    log_bucket          = "logs"
    requests_per_minute = 1200
  }
  assert {
    condition     = aws_lb_listener.https.protocol == "HTTPS" && startswith(aws_lb_listener.https.ssl_policy, "ELBSecurityPolicy-TLS13-1-2-")
    error_message = "TLS 1.2 and later, and nothing else."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.https.from_port == 443 && aws_vpc_security_group_ingress_rule.https.to_port == 443
    error_message = "Only the port of TLS is open."
  }
  assert {
    condition     = aws_lb.this.drop_invalid_header_fields && aws_lb.this.desync_mitigation_mode == "strictest" && aws_lb.this.enable_deletion_protection
    error_message = "A header that is not well-formed must not pass, and the load balancer must not go with one command."
  }
  assert {
    condition     = one(flatten([for rule in aws_wafv2_web_acl.this.rule : [for statement in rule.statement : statement.rate_based_statement[*].limit]])) == 1200
    error_message = "The firewall must count."
  }
  assert {
    condition     = length(one([for rule in aws_wafv2_web_acl.this.rule : rule.action if rule.name == "rate"])[0].block) == 1
    error_message = "The firewall must refuse, not only count."
  }
  assert {
    condition     = aws_wafv2_web_acl_association.this.resource_arn == aws_lb.this.arn
    error_message = "The firewall must stand before the load balancer."
  }
}

run "compute" {
  module {
    source = "./compute"
  }
  override_resource {
    target = aws_iam_role.backup
    values = { arn = "arn:aws:iam::111111111111:role/backup" }
  }
  override_resource {
    target = aws_iam_role.restore
    values = { arn = "arn:aws:iam::111111111111:role/restore" }
  }
  variables {
    variables        = { APP_ENVIRONMENT = "production" }
    secrets          = { DATABASE_URL = "arn:app" }
    migrator_secrets = { MIGRATOR_DATABASE_URL = "arn:migrator" }
    backup = {
      recipients   = ["age1"]
      database_url = "arn:backup"
      identity     = "arn:identity"
      bucket       = { name = "shop-backups", arn = "arn:aws:s3:::shop-backups" }
    }
    image                   = "registry/shop:none"
    balancer_security_group = "sg-balancer"
    target_group_arn        = "arn:aws:elasticloadbalancing:eu-central-1:111111111111:targetgroup/mock/1"
    stores                  = { database = { security_group = "sg-database", port = 5432 } }
  }
  assert {
    condition     = aws_ecs_service.this.deployment_circuit_breaker[0].enable && aws_ecs_service.this.deployment_circuit_breaker[0].rollback
    error_message = "A release that does not start must be taken back."
  }
  assert {
    condition     = aws_ecs_service.this.deployment_minimum_healthy_percent == 100 && !aws_ecs_service.this.network_configuration[0].assign_public_ip
    error_message = "No task stops before another is ready, and none has a public address."
  }
  assert {
    condition     = aws_appautoscaling_target.this.min_capacity == 2 && aws_appautoscaling_target.this.max_capacity == 4
    error_message = "As few and as many tasks as was asked for."
  }
  assert {
    condition     = aws_appautoscaling_policy.cpu.resource_id == aws_appautoscaling_target.this.resource_id && one(aws_appautoscaling_policy.cpu.target_tracking_scaling_policy_configuration).target_value < 80
    error_message = "There must be more tasks before these have too much to do."
  }
  assert {
    condition     = aws_ecs_service.this.enable_execute_command != true
    error_message = "Nobody gets a shell in a task that serves."
  }
  assert {
    condition     = { for name, definition in aws_ecs_task_definition.this : name => jsondecode(definition.container_definitions)[0].logConfiguration.options.awslogs-group } == { serve = "/shop-production/tasks", migrate = output.log_group.name, backup = output.log_group.name, restore = output.log_group.name } && output.log_group.name != "/shop-production/tasks"
    error_message = "What serves must not be able to say that there is a backup."
  }
  assert {
    condition     = alltrue([for definition in aws_ecs_task_definition.this : jsondecode(definition.container_definitions)[0].readonlyRootFilesystem])
    error_message = "A task must not write to its image."
  }
  assert {
    condition     = alltrue([for definition in aws_ecs_task_definition.this : one(definition.volume).name == "tmp" && one(jsondecode(definition.container_definitions)[0].mountPoints) == { sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }])
    error_message = "What cannot write to its image needs a /tmp: a backup is put together there."
  }
  assert {
    condition     = alltrue([for definition in aws_ecs_task_definition.this : jsondecode(definition.container_definitions)[0].user == "10001:10001"])
    error_message = "A task must not be root."
  }
  assert {
    condition     = length(distinct([for definition in aws_ecs_task_definition.this : jsondecode(definition.container_definitions)[0].image])) == 1
    error_message = "What migrates is the image that serves."
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this["serve"].container_definitions)[0].secrets[*].name == ["DATABASE_URL"]
    error_message = "The server is not to have the migrator's address."
  }
  assert {
    condition     = jsondecode(aws_iam_role_policy.start["serve"].policy).Statement[0].Resource == ["arn:app"]
    error_message = "What starts the server may read the server's secrets, and no others."
  }
  assert {
    condition     = toset(jsondecode(aws_ecs_task_definition.this["backup"].container_definitions)[0].secrets[*].name) == toset(["DATABASE_URL", "BACKUP_DATABASE_URL"])
    error_message = "What backs up has the address of the backup role, and not the migrator's."
  }
  assert {
    condition     = toset([for variable in jsondecode(aws_ecs_task_definition.this["backup"].container_definitions)[0].environment : variable.name if !contains(keys(var.variables), variable.name)]) == toset(["APP_BACKUP_URL", "APP_BACKUP_RECIPIENTS", "AWS_REGION"])
    error_message = "What backs up must know where to, and whom for."
  }
  assert {
    condition     = toset(flatten([for statement in jsondecode(aws_iam_role_policy.backup.policy).Statement : statement.Action if startswith(statement.Resource, "arn:aws:s3:")])) == toset(["s3:ListBucket", "s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"])
    error_message = "What backs up must not remove a version, nor its lock."
  }
  assert {
    condition     = aws_ecs_task_definition.this["backup"].task_role_arn == aws_iam_role.backup.arn && aws_ecs_task_definition.this["serve"].task_role_arn == aws_iam_role.task.arn
    error_message = "Only what backs up may write to the bucket."
  }
  assert {
    condition     = toset([for task, policy in aws_iam_role_policy.start : task if strcontains(policy.policy, "arn:identity")]) == toset(["restore"]) && !contains(output.role_arns, "arn:aws:iam::111111111111:role/restore")
    error_message = "Only the task that restores may have the key that opens backups, and no deployment may start it."
  }
  assert {
    condition     = toset([for statement in jsondecode(aws_iam_role_policy.restore.policy).Statement : statement.Action]) == toset(["s3:ListBucket", "s3:GetObject", "kms:Decrypt"]) && aws_ecs_task_definition.this["restore"].task_role_arn == aws_iam_role.restore.arn
    error_message = "What restores reads backups, and writes none."
  }
  assert {
    condition     = toset(jsondecode(aws_ecs_task_definition.this["restore"].container_definitions)[0].secrets[*].name) == toset(["DATABASE_URL", "MIGRATOR_DATABASE_URL", "APP_BACKUP_IDENTITY"])
    error_message = "What restores owns the database, as what migrates does, and has the key."
  }
  assert {
    condition     = aws_scheduler_schedule.backup.schedule_expression == "cron(0 1 * * ? *)"
    error_message = "A backup a day."
  }
  assert {
    condition     = aws_scheduler_schedule.backup.target[0].ecs_parameters[0].task_definition_arn == aws_ecs_task_definition.this["backup"].arn_without_revision
    error_message = "The newest image backs up, not the one that Terraform knew."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.balancer.referenced_security_group_id == "sg-balancer" && aws_vpc_security_group_ingress_rule.balancer.to_port == 8000
    error_message = "Only the load balancer may reach a task, and not the port of its metrics."
  }
}

run "pipeline" {
  module {
    source = "./pipeline"
  }
  variables {
    cluster        = { name = "shop", arn = "arn:aws:ecs:eu-central-1:111111111111:cluster/shop" }
    service_arn    = "arn:aws:ecs:eu-central-1:111111111111:service/shop/serve"
    families       = { serve = "shop-serve", migrate = "shop-migrate", backup = "shop-backup" }
    role_arns      = ["arn:aws:iam::111111111111:role/task"]
    log_group_arn  = "arn:aws:logs:eu-central-1:111111111111:log-group:shop"
    repository_arn = "arn:aws:ecr:eu-central-1:111111111111:repository/shop"
    backups_arn    = "arn:aws:s3:::shop-backups"
  }
  assert {
    condition = jsondecode(aws_iam_role.drill[0].assume_role_policy).Statement[*].Condition == [{ StringEquals = {
      "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
      "token.actions.githubusercontent.com:sub" = "repo:example-org@1/my-service@2:environment:drill"
    } }]
    error_message = "Only this repository's jobs in the environment drill may read backups."
  }
  assert {
    condition     = [for statement in jsondecode(aws_iam_role_policy.drill[0].policy).Statement : statement.Resource if statement.Action == "s3:PutObject"] == ["arn:aws:s3:::shop-backups/shop-production/drill.*"] && !strcontains(aws_iam_role_policy.drill[0].policy, "s3:Delete")
    error_message = "A drill leaves its report, and changes no backup."
  }
  assert {
    condition = jsondecode(aws_iam_role.deploy.assume_role_policy).Statement[*].Condition == [{ StringEquals = {
      "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
      "token.actions.githubusercontent.com:sub" = "repo:example-org@1/my-service@2:environment:production"
    } }]
    error_message = "Only this repository's jobs in this environment may deploy, and the subject is compared as a whole."
  }
  assert {
    condition     = !strcontains(aws_iam_role.deploy.assume_role_policy, "*")
    error_message = "Nothing in who may take the role is a wildcard."
  }
  assert {
    condition = [for statement in jsondecode(aws_iam_role_policy.deploy.policy).Statement : statement.Action if statement.Resource == "*"] == [
      "ecr:GetAuthorizationToken", "ecs:DescribeTaskDefinition",
    ]
    error_message = "Only what AWS cannot narrow down is allowed everywhere."
  }
  assert {
    condition = alltrue([for statement in jsondecode(aws_iam_role_policy.deploy.policy).Statement : toset(statement.Resource) == toset([
      for family in ["shop-backup", "shop-migrate", "shop-serve"] : "arn:aws:ecs:eu-central-1:111111111111:task-definition/${family}:*"
    ]) if contains(["WriteTaskDefinitions", "RunOne"], statement.Sid)])
    error_message = "A deployment may write and run this environment's task definitions, and no others."
  }
  assert {
    condition     = one([for statement in jsondecode(aws_iam_role_policy.deploy.policy).Statement : statement.Condition.ArnEquals["ecs:cluster"] if statement.Sid == "RunOne"]) == var.cluster.arn
    error_message = "A deployment may run tasks in this environment's cluster, and in no other."
  }
  assert {
    condition     = one([for statement in jsondecode(aws_iam_role_policy.deploy.policy).Statement : statement.Resource if statement.Action == "iam:PassRole"]) == ["arn:aws:iam::111111111111:role/task"]
    error_message = "A deployment may hand on the tasks' roles, and no others."
  }
}

run "storage_in_production" {
  module {
    source = "./storage"
  }
  assert {
    condition     = aws_s3_bucket.backups.object_lock_enabled && aws_s3_bucket_object_lock_configuration.backups.rule[0].default_retention[0].mode == "COMPLIANCE"
    error_message = "In production nobody may delete a backup before its time."
  }
  assert {
    condition     = aws_s3_bucket_object_lock_configuration.backups.rule[0].default_retention[0].days == 14
    error_message = "Two weeks are the time in which somebody notices."
  }
  assert {
    condition     = alltrue([for versions in aws_s3_bucket_versioning.this : versions.versioning_configuration[0].status == "Enabled"])
    error_message = "What is overwritten must still be there."
  }
  assert {
    condition     = alltrue([for block in aws_s3_bucket_public_access_block.this : block.block_public_acls && block.block_public_policy && block.ignore_public_acls && block.restrict_public_buckets])
    error_message = "No bucket is public."
  }
  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.backups.rule).apply_server_side_encryption_by_default[0].kms_master_key_id == var.key_arn
    error_message = "Backups are to be encrypted, with the environment's key."
  }
  assert {
    condition     = alltrue([for policy in aws_s3_bucket_policy.this : jsondecode(policy.policy).Statement[0].Condition.Bool["aws:SecureTransport"] == "false" && jsondecode(policy.policy).Statement[0].Effect == "Deny"])
    error_message = "A bucket must refuse a request without TLS."
  }
}

run "network" {
  module {
    source = "./network"
  }
  variables {
    cidr              = "10.20.0.0/16"
    nat_in_every_zone = true
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 2
    error_message = "In production the way out must not end with one zone."
  }
  assert {
    condition     = length(aws_route_table.data.route) == 0
    error_message = "Nothing leads from the data to the internet, nor back."
  }
  assert {
    condition     = alltrue([for subnet in aws_subnet.public : subnet.map_public_ip_on_launch != true])
    error_message = "Nothing gets a public address by itself."
  }
}
