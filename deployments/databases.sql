-- beside the one of Prefect, made when the container of PostgreSQL starts for the first time
create database mlflow;
create database mlflow_auth;
