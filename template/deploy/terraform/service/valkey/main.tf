# Where all tasks count requests together. It has nothing that may not be lost.

variable "name" {
  type = string
}

variable "production" {
  type = bool
}

variable "vpc_id" {
  type = string
}

variable "subnets" {
  type = list(string)
}

variable "tasks_security_group" {
  type = string
}

variable "key_arn" {
  type = string
}

variable "password_arn" {
  type = string
}

variable "password_version" {
  type = number
}

# ElastiCache has no argument that is only written, so that this one secret is in the state as well, which is encrypted.
data "aws_secretsmanager_secret_version" "password" {
  secret_id = var.password_arn
}

resource "aws_elasticache_subnet_group" "this" {
  name       = var.name
  subnet_ids = var.subnets
}

resource "aws_security_group" "this" {
  name        = "${var.name}-valkey"
  description = "Valkey"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-valkey" }
}

resource "aws_vpc_security_group_ingress_rule" "tasks" {
  security_group_id            = aws_security_group.this.id
  description                  = "The tasks"
  referenced_security_group_id = var.tasks_security_group
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
}

resource "aws_elasticache_replication_group" "this" {
  replication_group_id       = var.name
  description                = "Counts requests"
  engine                     = "valkey"
  engine_version             = "8.0"
  node_type                  = "cache.t4g.micro"
  num_cache_clusters         = var.production ? 2 : 1
  automatic_failover_enabled = var.production
  multi_az_enabled           = var.production
  port                       = 6379
  subnet_group_name          = aws_elasticache_subnet_group.this.name
  security_group_ids         = [aws_security_group.this.id]
  transit_encryption_enabled = true
  auth_token                 = data.aws_secretsmanager_secret_version.password.secret_string
  auth_token_update_strategy = "ROTATE"
  at_rest_encryption_enabled = true
  kms_key_id                 = var.key_arn
  maintenance_window         = "sun:03:30-sun:04:30"
}

resource "aws_secretsmanager_secret" "url" {
  #checkov:skip=CKV2_AWS_57:a rotation by itself would lock out tasks that are running; raise a number in `versions` instead
  name        = "${var.name}/app_valkey_url"
  description = "Valkey, with its password"
  kms_key_id  = var.key_arn
}

resource "aws_secretsmanager_secret_version" "url" {
  secret_id                = aws_secretsmanager_secret.url.id
  secret_string_wo         = "rediss://:${data.aws_secretsmanager_secret_version.password.secret_string}@${aws_elasticache_replication_group.this.primary_endpoint_address}:6379/0"
  secret_string_wo_version = var.password_version
}

output "url_secret" {
  value = aws_secretsmanager_secret_version.url.secret_id
}

output "security_group" {
  value = aws_security_group.this.id
}

output "first_node" {
  description = "What its metrics are called."
  value       = "${aws_elasticache_replication_group.this.replication_group_id}-001"
}
