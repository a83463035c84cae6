# The tasks. Terraform says everything about them but which image: a deployment takes the newest revision of a task
# definition, puts the digest in and registers that, so that neither undoes what the other did.

variable "name" {
  type = string
}

variable "tasks" {
  type = object({ cpu = number, memory = number, min = number, max = number })
}

variable "variables" {
  type = map(string)
}

variable "secrets" {
  description = "For the server: which variable comes from which secret."
  type        = map(string)
}

variable "migrator_secrets" {
  description = "What `chassis migrate` has on top."
  type        = map(string)
}

variable "backup" {
  description = "What `chassis backup` has on top, and where it writes to; and from which secret `chassis restore` has its key."
  type = object({
    recipients   = list(string)
    database_url = string
    identity     = string
    bucket       = object({ name = string, arn = string })
  })
}

variable "image" {
  type = string
}

variable "vpc_id" {
  type = string
}

variable "subnets" {
  type = list(string)
}

variable "balancer_security_group" {
  type = string
}

variable "target_group_arn" {
  type = string
}

variable "stores" {
  description = "What else the tasks may reach: security groups, each with its port."
  type        = map(object({ security_group = string, port = number }))
}

variable "key_arn" {
  type = string
}

data "aws_caller_identity" "this" {}

data "aws_region" "this" {}

locals {
  container = {
    name                   = "service"
    image                  = var.image
    essential              = true
    user                   = "10001:10001"
    readonlyRootFilesystem = true
    mountPoints            = [{ sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }]
    linuxParameters        = { initProcessEnabled = true, capabilities = { drop = ["ALL"], add = [] } }
    # More than APP_DRAIN_SECONDS and APP_SHUTDOWN_SECONDS together.
    stopTimeout = 30
  }
  log = { awslogs-region = data.aws_region.this.name, awslogs-stream-prefix = "task", mode = "non-blocking" }
  definitions = {
    serve = {
      command      = ["chassis", "serve"]
      log          = aws_cloudwatch_log_group.this.name
      role         = aws_iam_role.task.arn
      variables    = var.variables
      secrets      = var.secrets
      portMappings = [{ containerPort = 8000, protocol = "tcp" }]
      healthCheck = {
        command     = ["CMD", "python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/livez')"]
        interval    = 10
        timeout     = 5
        retries     = 3
        startPeriod = 15
      }
    }
    migrate = {
      command      = ["chassis", "migrate"]
      log          = aws_cloudwatch_log_group.commands.name
      role         = aws_iam_role.task.arn
      variables    = var.variables
      secrets      = merge(var.secrets, var.migrator_secrets)
      portMappings = []
      healthCheck  = null
    }
    backup = {
      command      = ["chassis", "backup"]
      log          = aws_cloudwatch_log_group.commands.name
      role         = aws_iam_role.backup.arn
      variables    = local.with_backups
      secrets      = merge(var.secrets, { BACKUP_DATABASE_URL = var.backup.database_url })
      portMappings = []
      healthCheck  = null
    }
    # deploy.sh says into which database.
    restore = {
      command   = ["chassis", "restore"]
      log       = aws_cloudwatch_log_group.commands.name
      role      = aws_iam_role.restore.arn
      variables = local.with_backups
      secrets = merge(var.secrets, {
        MIGRATOR_DATABASE_URL = var.migrator_secrets["MIGRATOR_DATABASE_URL"]
        APP_BACKUP_IDENTITY   = var.backup.identity
      })
      portMappings = []
      healthCheck  = null
    }
  }
  with_backups = merge(var.variables, {
    APP_BACKUP_URL        = "s3://${var.backup.bucket.name}/${var.name}"
    APP_BACKUP_RECIPIENTS = join(",", var.backup.recipients)
    AWS_REGION            = data.aws_region.this.name
  })
}

resource "aws_ecs_cluster" "this" {
  name = var.name
  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/${var.name}/tasks"
  retention_in_days = 365
  kms_key_id        = var.key_arn
}

# Of tasks that run once. Whoever got into one that serves can write what they like into its log, but not here, where an
# alarm counts backups.
resource "aws_cloudwatch_log_group" "commands" {
  name              = "/${var.name}/commands"
  retention_in_days = 365
  kms_key_id        = var.key_arn
}

resource "aws_ecs_task_definition" "this" {
  for_each                 = local.definitions
  family                   = "${var.name}-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.tasks.cpu
  memory                   = var.tasks.memory
  execution_role_arn       = aws_iam_role.start[each.key].arn
  task_role_arn            = each.value.role
  # Of the task alone, on the disk that Fargate gives it. The image says that anybody may write there: VOLUME /tmp.
  volume {
    name = "tmp"
  }
  container_definitions = jsonencode([merge(
    local.container,
    { command = each.value.command, portMappings = each.value.portMappings },
    { environment = [for name, value in each.value.variables : { name = name, value = value }] },
    { secrets = [for name, arn in each.value.secrets : { name = name, valueFrom = arn }] },
    { logConfiguration = { logDriver = "awslogs", options = merge(local.log, { awslogs-group = each.value.log }) } },
    each.value.healthCheck == null ? {} : { healthCheck = each.value.healthCheck },
  )])
}

resource "aws_ecs_service" "this" {
  name                               = "serve"
  cluster                            = aws_ecs_cluster.this.id
  task_definition                    = aws_ecs_task_definition.this["serve"].arn
  launch_type                        = "FARGATE"
  platform_version                   = "LATEST"
  desired_count                      = var.tasks.min
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 60
  enable_ecs_managed_tags            = true
  propagate_tags                     = "SERVICE"

  # A release that does not become ready is taken back by itself.
  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }
  network_configuration {
    subnets          = var.subnets
    security_groups  = [aws_security_group.tasks.id]
    assign_public_ip = false
  }
  load_balancer {
    target_group_arn = var.target_group_arn
    container_name   = "service"
    container_port   = 8000
  }
  lifecycle {
    # A deployment's, and the autoscaling's.
    ignore_changes = [task_definition, desired_count]
  }
}

resource "aws_appautoscaling_target" "this" {
  service_namespace  = "ecs"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.this.name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.tasks.min
  max_capacity       = var.tasks.max
}

resource "aws_appautoscaling_policy" "cpu" {
  name               = "cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension
  target_tracking_scaling_policy_configuration {
    target_value       = 60
    scale_out_cooldown = 60
    scale_in_cooldown  = 300
    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}

resource "aws_security_group" "tasks" {
  name        = "${var.name}-tasks"
  description = "The tasks"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-tasks" }
}

# The port of metrics, 8001, is open to nobody.
resource "aws_vpc_security_group_ingress_rule" "balancer" {
  security_group_id            = aws_security_group.tasks.id
  description                  = "The load balancer"
  referenced_security_group_id = var.balancer_security_group
  ip_protocol                  = "tcp"
  from_port                    = 8000
  to_port                      = 8000
}

resource "aws_vpc_security_group_egress_rule" "balancer" {
  security_group_id            = var.balancer_security_group
  description                  = "The tasks"
  referenced_security_group_id = aws_security_group.tasks.id
  ip_protocol                  = "tcp"
  from_port                    = 8000
  to_port                      = 8000
}

resource "aws_vpc_security_group_egress_rule" "stores" {
  for_each                     = var.stores
  security_group_id            = aws_security_group.tasks.id
  description                  = each.key
  referenced_security_group_id = each.value.security_group
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}

# AWS itself and whom webhooks go to; mail, with TLS from the first byte or after STARTTLS.
resource "aws_vpc_security_group_egress_rule" "out" {
  for_each          = { https = 443, smtps = 465, submission = 587 }
  security_group_id = aws_security_group.tasks.id
  description       = each.key
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = each.value
  to_port           = each.value
}

# What starts a task: it fetches the image and those secrets that this kind of task has, and writes the log.
resource "aws_iam_role" "start" {
  for_each           = local.definitions
  name               = "${var.name}-start-${each.key}"
  assume_role_policy = local.trust
}

resource "aws_iam_role_policy_attachment" "start" {
  for_each   = local.definitions
  role       = aws_iam_role.start[each.key].name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

resource "aws_iam_role_policy" "start" {
  for_each = local.definitions
  name     = "secrets"
  role     = aws_iam_role.start[each.key].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = "secretsmanager:GetSecretValue", Resource = values(each.value.secrets) },
      { Effect = "Allow", Action = "kms:Decrypt", Resource = var.key_arn },
    ]
  })
}

# What the service itself may do in AWS: nothing.
resource "aws_iam_role" "task" {
  name               = "${var.name}-task"
  assume_role_policy = local.trust
}

locals {
  trust = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

output "cluster" {
  value = { name = aws_ecs_cluster.this.name, arn = aws_ecs_cluster.this.arn }
}

output "service" {
  value = { name = aws_ecs_service.this.name, arn = aws_ecs_service.this.id }
}

output "families" {
  description = "Of the task definitions."
  value       = { for name, definition in aws_ecs_task_definition.this : name => definition.family }
}

output "security_group" {
  value = aws_security_group.tasks.id
}

output "role_arns" {
  description = "Of all tasks but the one that restores."
  value = concat(
    [for name, role in aws_iam_role.start : role.arn if name != "restore"],
    [aws_iam_role.task.arn, aws_iam_role.backup.arn],
  )
}

output "log_group" {
  description = "Of tasks that run once."
  value       = { name = aws_cloudwatch_log_group.commands.name, arn = aws_cloudwatch_log_group.commands.arn }
}
